"""Inverse autoregressive flows (Kingma et al. 2016, arXiv 1606.04934).

    m, s = MADE_k(z_{k-1}, context)          output i sees coordinates before i only
    z_k  = σ ⊙ z_{k-1} + (1 - σ) ⊙ m,        σ = sigmoid(s + 2)
    ladj_k = Σ_i log σ_i

and the order of the coordinates is reversed between layers. A draw takes one pass per layer; the
inverse takes D passes per layer, one for each coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from flowvae.flows.conditioner import NeuralFlow

__all__ = ["InverseAutoregressiveFlow"]

_FORGET_BIAS = 2.0  # 1 to 2 in the paper: layers start near the identity


class InverseAutoregressiveFlow(NeuralFlow):
    """K inverse autoregressive layers on R^D with masked networks of their own.

    Args:
        dim: D ≥ 1.
        num_flows: K ≥ 0.
        hidden_dims: widths of each MADE.
        context_dim: width of a context they are conditioned on; 0 is none.

    Source: "Improving Variational Inference with Inverse Autoregressive Flow", arXiv 1606.04934.

    Examples:
        >>> import torch
        >>> flow = InverseAutoregressiveFlow(dim=3, num_flows=2, context_dim=5).double()
        >>> z, context = torch.randn(7, 3).double(), torch.randn(7, 5).double()
        >>> z_K, ladj = flow(context).forward_and_ladj(z)
        >>> again, inverse_ladj = flow(context).inverse_and_ladj(z_K)
        >>> torch.allclose(again, z), torch.allclose(inverse_ladj, -ladj)
        (True, True)
    """

    def __init__(
        self, dim: int, num_flows: int, hidden_dims: Sequence[int] = (128,), context_dim: int = 0
    ) -> None:
        super().__init__(dim, num_flows, hidden_dims, context_dim, autoregressive=True, scale=1.0)

    def layer(self, k: int, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z = z.flip(-1) if k % 2 else z
        m, s = self.conditioners[k](z, context)
        s = s + _FORGET_BIAS
        gate = torch.sigmoid(s)
        z = gate * z + (1 - gate) * m
        return (z.flip(-1) if k % 2 else z), logsigmoid(s).sum(-1)

    def inverse_layer(self, k: int, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        y = z.flip(-1) if k % 2 else z
        found, log_gate = torch.zeros_like(y), torch.zeros_like(y)
        coordinate = torch.arange(y.shape[-1], device=y.device)
        for i in range(y.shape[-1]):
            m, s = self.conditioners[k](found, context)
            s = s + _FORGET_BIAS
            # After pass i the first i + 1 coordinates are right.
            step = (y - (1 - torch.sigmoid(s)) * m) * (-logsigmoid(s)).exp()
            found = torch.where(coordinate == i, step, found)
            log_gate = torch.where(coordinate == i, logsigmoid(s), log_gate)
        return (found.flip(-1) if k % 2 else found), -log_gate.sum(-1)

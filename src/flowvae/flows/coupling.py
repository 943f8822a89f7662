"""Affine coupling flows, RealNVP (Dinh et al. 2017, arXiv 1605.08803).

Coordinates of one parity keep their value and say what becomes of the others; the next layer
changes roles. For the others,

    m, s = network_k(kept coordinates, context)
    z_k  = z_{k-1} exp(λ) + m,        λ = 3 tanh(s / 3)
    ladj_k = Σ λ

Both directions take one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowvae.flows.conditioner import NeuralFlow

__all__ = ["CouplingFlow"]

_MOST_LOG_SCALE = 3.0  # K layers may scale by e^(±3K) but one of them cannot overflow


class CouplingFlow(NeuralFlow):
    """K affine coupling layers on R^D; they start near the identity.

    Args:
        dim: D ≥ 1; at D = 1 there is nothing to condition on, and a layer is affine.
        num_flows: K ≥ 0; an even number changes all coordinates equally often.
        hidden_dims: widths of each layer's network.
        context_dim: width of a context they are conditioned on; 0 is none.

    Source: "Density estimation using Real NVP", arXiv 1605.08803.

    Examples:
        >>> import torch
        >>> flow = CouplingFlow(dim=3, num_flows=4).double()
        >>> z = torch.randn(7, 3).double()
        >>> torch.allclose(flow().inv(flow()(z)), z)
        True
    """

    changed: Tensor

    def __init__(
        self, dim: int, num_flows: int, hidden_dims: Sequence[int] = (128,), context_dim: int = 0
    ) -> None:
        super().__init__(dim, num_flows, hidden_dims, context_dim, autoregressive=False, scale=0.1)
        changed = torch.arange(dim) % 2 == torch.arange(max(num_flows, 1))[:, None] % 2
        self.register_buffer("changed", changed, persistent=False)

    def layer(self, k: int, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._affine(k, z, context)
        return z * log_scale.exp() + shift, log_scale.sum(-1)

    def inverse_layer(self, k: int, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._affine(k, z, context)
        return (z - shift) * (-log_scale).exp(), -log_scale.sum(-1)

    def _affine(self, k: int, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift and log-scale, 0 for the coordinates that are kept."""
        changed = self.changed[k]
        m, s = self.conditioners[k](torch.where(changed, 0.0, z), context)
        log_scale = _MOST_LOG_SCALE * torch.tanh(s / _MOST_LOG_SCALE)
        zero = torch.zeros_like(m)
        return torch.where(changed, m, zero), torch.where(changed, log_scale, zero)

"""The planar posterior."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from flowvae.config.options import NumFlows
from flowvae.flows.planar import CONSTRAINTS, Constraint, PlanarTransform
from flowvae.posteriors.base import FlowPosterior

__all__ = ["PlanarPosterior"]


class PlanarPosterior(FlowPosterior):
    """q(z|x): a diagonal Gaussian through K planar flows, every parameter written by the encoder.

    Five affine heads on the features: μ (D), log σ² (D), w (K, D), u (K, D), b (K). K = 0 is the
    plain Gaussian posterior.

    Args:
        in_features: width H of the encoder's output.
        latent_dim: D ≥ 1.
        num_flows: K, the number of flows; 0 is a plain Gaussian.
        constraint: how a flow is kept invertible: ``"paper"``, m(a) of the paper, or ``"centred"``;
            see :func:`flowvae.flows.planar_flow`.
        amortized: whether the encoder writes the flows' parameters; else all data share them.
        standardized: whether the flows act on the noise, z = μ + σ ⊙ f(ε), and start near the
            identity; else on z₀ = μ + σ ⊙ ε.
        bound: B, where |wᵀu| is kept below it, u ← u / √(1 + (wᵀu/B)²), so that no layer expands
            space by more than about 1 + B. Unbounded layers multiply to gradients that one datum of
            a batch dominates.

    Source: "Variational Inference with Normalizing Flows", arXiv 1505.05770.

    Examples:
        >>> import torch
        >>> head = PlanarPosterior(in_features=8, latent_dim=2, num_flows=3)
        >>> z, log_q = head(torch.randn(5, 8)).rsample_and_log_prob((7,))
        >>> z.shape, log_q.shape
        (torch.Size([7, 5, 2]), torch.Size([7, 5]))
    """

    def __init__(
        self,
        in_features: int,
        latent_dim: int,
        num_flows: NumFlows = 3,
        constraint: Constraint = "paper",
        amortized: bool = True,
        standardized: bool = False,
        bound: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        if constraint not in CONSTRAINTS:
            raise ValueError(f"constraint: expected one of {CONSTRAINTS}, got {constraint!r}")
        super().__init__(in_features, latent_dim, num_flows, amortized, standardized)
        self.constraint: Constraint = constraint
        self.bound = bound
        if standardized and amortized:
            self._start_near_identity()

    @torch.no_grad()
    def _start_near_identity(self) -> None:
        """u near 0, w and b of order 1: where both w and u vanish, so do their gradients."""
        K, D = self.num_flows, self.latent_dim
        w, u, b = self.heads.bias[2 * D :].split([K * D, K * D, K])
        w.normal_(std=D**-0.5)
        b.normal_()
        u.zero_()
        self.heads.weight[2 * D + K * D : 2 * D + 2 * K * D].mul_(0.1)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        K, D = self.num_flows, self.latent_dim
        return {"w": (K, D), "u": (K, D), "b": (K,)}

    def bijection(self, *parameters: Tensor) -> PlanarTransform:
        w, u, b = parameters
        if self.bound is not None:
            wu = (w * u).sum(-1, keepdim=True)
            u = u * (1 + (wu / self.bound).square()).rsqrt()
        return PlanarTransform(w, u, b, self.constraint)

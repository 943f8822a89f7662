"""Amortizing heads: features -> q(z|x). Each is a module that returns a distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from flowvae.distributions import DiagonalGaussian, PlanarFlowDistribution
from flowvae.flows.planar import CONSTRAINTS, Constraint

if TYPE_CHECKING:
    from flowvae.config import Config

__all__ = ["PlanarPosterior"]


class PlanarPosterior(nn.Module):
    """q(z|x): a diagonal Gaussian through K planar flows, every parameter written by the encoder.

    Five affine heads on the features: μ (D), log σ² (D), w (K, D), u (K, D), b (K). K = 0 is the
    plain Gaussian posterior.

    Args:
        in_features: width H of the encoder's output.
        latent_dim: D ≥ 1.
        num_flows: K ≥ 0.
        constraint: ``"paper"`` or ``"centred"``, see :func:`flowvae.flows.planar_flow`.

    Source: "Variational Inference with Normalizing Flows", arXiv 1505.05770.

    Examples:
        >>> import torch
        >>> head = PlanarPosterior(in_features=8, latent_dim=2, num_flows=3)
        >>> z, log_q = head(torch.randn(5, 8)).rsample_and_log_prob((7,))
        >>> z.shape, log_q.shape
        (torch.Size([7, 5, 2]), torch.Size([7, 5]))
    """

    def __init__(
        self, in_features: int, latent_dim: int, num_flows: int, constraint: Constraint = "paper"
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim: expected at least 1, got {latent_dim}")
        if num_flows < 0:
            raise ValueError(f"num_flows: expected at least 0, got {num_flows}")
        if constraint not in CONSTRAINTS:
            raise ValueError(f"constraint: expected one of {CONSTRAINTS}, got {constraint!r}")
        self.latent_dim, self.num_flows = latent_dim, num_flows
        self.constraint: Constraint = constraint
        D, K = latent_dim, num_flows
        self._sizes = [D, D, K * D, K * D, K]
        # One product for all five heads; nn.Linear initialises by its input width alone, so this
        # is the same model as five separate layers.
        self.heads = nn.Linear(in_features, sum(self._sizes))

    @classmethod
    def from_config(cls, config: Config, in_features: int) -> PlanarPosterior:
        return cls(in_features, config.latent_dim, config.num_flows, config.constraint)

    def forward(self, features: Float[Tensor, "*batch H"]) -> PlanarFlowDistribution:
        loc, log_var, w, u, b = self.heads(features).split(self._sizes, -1)
        shape = (self.num_flows, self.latent_dim)
        return PlanarFlowDistribution(
            DiagonalGaussian(loc, log_var),
            w.unflatten(-1, shape),
            u.unflatten(-1, shape),
            b,
            self.constraint,
        )

"""The planar posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from flowvae.distributions import DiagonalGaussian, PlanarFlowDistribution
from flowvae.flows.planar import CONSTRAINTS, Constraint
from flowvae.posteriors.base import FlowPosterior

if TYPE_CHECKING:
    from flowvae.config import Config

__all__ = ["PlanarPosterior"]


class PlanarPosterior(FlowPosterior):
    """q(z|x): a diagonal Gaussian through K planar flows, every parameter written by the encoder.

    Five affine heads on the features: μ (D), log σ² (D), w (K, D), u (K, D), b (K). K = 0 is the
    plain Gaussian posterior.

    Args:
        in_features: width H of the encoder's output.
        latent_dim: D ≥ 1.
        num_flows: K ≥ 0.
        constraint: ``"paper"`` or ``"centred"``, see :func:`flowvae.flows.planar_flow`.
        amortized: see :class:`FlowPosterior`.

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
        num_flows: int,
        constraint: Constraint = "paper",
        amortized: bool = True,
    ) -> None:
        if constraint not in CONSTRAINTS:
            raise ValueError(f"constraint: expected one of {CONSTRAINTS}, got {constraint!r}")
        super().__init__(in_features, latent_dim, num_flows, amortized)
        self.constraint: Constraint = constraint

    @classmethod
    def from_config(cls, config: Config, in_features: int) -> PlanarPosterior:
        D, K = config.latent_dim, config.num_flows
        return cls(in_features, D, K, config.constraint, config.amortized)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        K, D = self.num_flows, self.latent_dim
        return {"w": (K, D), "u": (K, D), "b": (K,)}

    def distribution(self, base: DiagonalGaussian, *parameters: Tensor) -> PlanarFlowDistribution:
        w, u, b = parameters
        return PlanarFlowDistribution(base, w, u, b, self.constraint)

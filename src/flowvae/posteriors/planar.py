"""The planar posterior."""

from __future__ import annotations

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
    ) -> None:
        if constraint not in CONSTRAINTS:
            raise ValueError(f"constraint: expected one of {CONSTRAINTS}, got {constraint!r}")
        super().__init__(in_features, latent_dim, num_flows, amortized)
        self.constraint: Constraint = constraint

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        K, D = self.num_flows, self.latent_dim
        return {"w": (K, D), "u": (K, D), "b": (K,)}

    def bijection(self, *parameters: Tensor) -> PlanarTransform:
        return PlanarTransform(*parameters, constraint=self.constraint)

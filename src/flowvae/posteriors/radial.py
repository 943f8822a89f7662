"""The radial posterior."""

from __future__ import annotations

from torch import Tensor

from flowvae.flows.radial import radial_flow, radial_flow_inverse
from flowvae.posteriors.base import FlowPosterior

__all__ = ["RadialPosterior"]


class RadialPosterior(FlowPosterior):
    """q(z|x): a diagonal Gaussian through K radial flows.

    See :func:`flowvae.flows.radial_flow`. Heads: μ (D), log σ² (D), centre (K, D), alpha (K),
    beta (K). Arguments are those of
    :class:`FlowPosterior`.

    Source: "Variational Inference with Normalizing Flows", arXiv 1505.05770.

    Examples:
        >>> import torch
        >>> head = RadialPosterior(in_features=8, latent_dim=2, num_flows=3)
        >>> head(torch.randn(5, 8)).log_prob(torch.zeros(7, 5, 2)).shape
        torch.Size([7, 5])
    """

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        K, D = self.num_flows, self.latent_dim
        return {"centre": (K, D), "alpha": (K,), "beta": (K,)}

    def flow(self, z: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        return radial_flow(z, *parameters)

    def flow_inverse(self, z_K: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        return radial_flow_inverse(z_K, *parameters)

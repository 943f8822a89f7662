"""The radial posterior."""

from __future__ import annotations

from torch import Tensor

from flowvae.flows.radial import RadialTransform
from flowvae.posteriors.base import FlowPosterior

__all__ = ["RadialPosterior"]


class RadialPosterior(FlowPosterior):
    """q(z|x): a diagonal Gaussian through K radial flows.

    See :class:`flowvae.flows.RadialTransform`. Heads: μ (D), log σ² (D), centre (K, D), alpha (K),
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

    def bijection(self, *parameters: Tensor) -> RadialTransform:
        return RadialTransform(*parameters)

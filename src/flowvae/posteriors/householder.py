"""The Householder posterior."""

from __future__ import annotations

from torch import Tensor

from flowvae.flows.householder import HouseholderTransform
from flowvae.posteriors.base import FlowPosterior

__all__ = ["HouseholderPosterior"]


class HouseholderPosterior(FlowPosterior):
    """q(z|x): a diagonal Gaussian turned by K reflections, a Gaussian of full covariance.

    Heads: μ (D), log σ² (D), v (K, D). The paper has each v_k be an affine map of v_{k-1}; an
    affine map of the features says the same or more. Arguments are those of
    :class:`FlowPosterior`.

    Source: "Improving Variational Auto-Encoders using Householder Flow", arXiv 1611.09630.

    Examples:
        >>> import torch
        >>> head = HouseholderPosterior(in_features=8, latent_dim=2, num_flows=3)
        >>> head(torch.randn(5, 8)).rsample_terms().ladj
        tensor([0., 0., 0., 0., 0.])
    """

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"v": (self.num_flows, self.latent_dim)}

    def bijection(self, *parameters: Tensor) -> HouseholderTransform:
        return HouseholderTransform(*parameters)

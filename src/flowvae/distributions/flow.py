"""A Gaussian pushed through a bijection."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flowvae.distributions.base import FlowSample, LatentDistribution, draw, standard_noise
from flowvae.distributions.gaussian import DiagonalGaussian
from flowvae.flows.bijection import Bijection

__all__ = ["FlowDistribution"]


class FlowDistribution(LatentDistribution):
    """A diagonal Gaussian q₀ pushed through the K layers of a bijection.

    log q_K(z_K) = log q₀(z₀) - Σ_k ladj_k

    Args:
        base: q₀ = N(μ, diag σ²), batch (...), event (D,).
        bijection: its parameters' batch dimensions broadcast with the base's.
        standardized: the layers act on ε = (z - μ)/σ instead of z, so z_K = μ + σ ⊙ f(ε): for maps
            that change a fixed box only, such as splines.

    Source: "Variational Inference with Normalizing Flows", arXiv 1505.05770.

    Examples:
        >>> import torch
        >>> from flowvae.flows import PlanarTransform
        >>> base = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
        >>> flow = PlanarTransform(torch.randn(4, 3, 2), torch.randn(4, 3, 2), torch.randn(4, 3))
        >>> q = FlowDistribution(base, flow)
        >>> z, log_q = q.rsample_and_log_prob((10,))
        >>> z.shape, log_q.shape, q.num_flows, q.first(1).num_flows
        (torch.Size([10, 4, 2]), torch.Size([10, 4]), 3, 1)
        >>> q.log_prob(torch.zeros(4, 2)).shape   # at points it did not draw: the exact inverse
        torch.Size([4])
    """

    def __init__(
        self, base: DiagonalGaussian, bijection: Bijection, standardized: bool = False
    ) -> None:
        self.base, self.bijection, self.standardized = base, bijection, standardized
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def num_flows(self) -> int:
        """K."""
        return self.bijection.num_flows

    def flow(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Push z₀ (..., D) forward: z_K and Σ_k ladj_k."""
        if not self.standardized:
            return self.bijection.forward_and_ladj(z)
        eps, ladj = self.bijection.forward_and_ladj(self.base.standardize(z))
        return self.base.at(eps), ladj

    def flow_inverse(self, z_K: Tensor) -> tuple[Tensor, Tensor]:
        """Pull z_K (..., D) back: z₀ and the log-determinant of this map, -Σ_k ladj_k."""
        if not self.standardized:
            return self.bijection.inverse_and_ladj(z_K)
        eps, ladj = self.bijection.inverse_and_ladj(self.base.standardize(z_K))
        return self.base.at(eps), ladj

    def first(self, k: int) -> FlowDistribution:
        """The distribution of z_k: the base through the first k flows only."""
        return FlowDistribution(self.base, self.bijection.first(k), self.standardized)

    def rsample_terms(
        self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> FlowSample:
        return self.at_noise(standard_noise(self, sample_shape, self.base.loc, generator))

    def at_noise(self, eps: Tensor) -> FlowSample:
        z_0, log_base = draw(self.base.loc, self.base.log_var, eps)
        if not self.standardized:
            z_K, ladj = self.bijection.forward_and_ladj(z_0)
        else:  # ε itself, rather than z₀ standardized again, which rounds where σ is small
            eps, ladj = self.bijection.forward_and_ladj(eps)
            z_K = self.base.at(eps)
        return FlowSample(z_K, log_base, ladj)

    def tensors(self) -> dict[str, Tensor]:
        """Those of the base, and of the flows' those that each datum has of its own."""
        found, ranks = self.base.tensors(), self.bijection.layered
        if self.num_flows:
            for name, value in self.bijection.tensors().items():
                if value.dim() > 1 + ranks.get(name, 0):  # else all data share it
                    found[name] = value
        return found

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> LatentDistribution:
        base = self.base.with_tensors(tensors)
        if self.num_flows == 0:
            return base
        own = {name: value for name, value in tensors.items() if name not in self.base.tensors()}
        return FlowDistribution(base, self.bijection.with_tensors(own), self.standardized)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q_K at any point, drawn here or not, by the exact inverse of the flows."""
        z_0, ladj = self.flow_inverse(value)
        return self.base.log_prob(z_0) + ladj

"""What the model asks of a distribution over z."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

__all__ = ["FlowSample", "LatentDistribution", "standard_draw"]


class FlowSample(NamedTuple):
    """A draw z_K with the two parts of its log-density: log q_K(z_K) = log_base - ladj, in nats."""

    z: Tensor
    log_base: Tensor
    ladj: Tensor


class LatentDistribution(Distribution):
    """What VAE asks of q(z|x) and p(z), on top of ``torch.distributions.Distribution``.

    A subclass writes :meth:`rsample_terms`; a Gaussian has ladj = 0. ``generator`` makes draws
    independent of torch's global random state.
    """

    has_rsample = True
    support = constraints.real_vector  # pyright: ignore

    def rsample_terms(
        self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> FlowSample:
        """Draw z with log q₀(z₀) and Σ_k ladj_k, each (*sample_shape, *batch_shape)."""
        raise NotImplementedError

    def rsample_and_log_prob(
        self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw z, (*sample_shape, *batch_shape, D), and its log-density in nats, without D."""
        z, log_base, ladj = self.rsample_terms(sample_shape, generator)
        return z, log_base - ladj

    def rsample(
        self,
        sample_shape: Any = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self.rsample_terms(tuple(sample_shape), generator).z

    def detached(self) -> LatentDistribution:
        """The same distribution, its parameters detached from what computed them."""
        raise NotImplementedError(f"{type(self).__name__}: no detached()")


def standard_draw(
    shape: torch.Size, like: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """ε ~ N(0, I), (..., D), of a tensor's dtype and device, and its log-density, (...)."""
    eps = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
    return eps, -0.5 * (eps.square() + math.log(2 * math.pi)).sum(-1)

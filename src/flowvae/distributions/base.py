"""The interface of a distribution over z."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from flowvae.flows.bijection import with_detached_tensors
from flowvae.processes import noise_of_batch

__all__ = ["FlowSample", "LatentDistribution", "draw", "standard_log_prob", "standard_noise"]


class FlowSample(NamedTuple):
    """A draw z_K with the two parts of its log-density: log q_K(z_K) = log_base - ladj, in nats."""

    z: Tensor
    log_base: Tensor
    ladj: Tensor


class LatentDistribution(Distribution):
    """What q(z|x) and p(z) have on top of ``torch.distributions.Distribution``.

    A subclass writes :meth:`rsample_terms`; a Gaussian has ladj = 0. ``generator`` makes draws
    independent of torch's global random state.
    """

    has_rsample = True
    arg_constraints = {}  # pyright: ignore
    support = constraints.real_vector  # pyright: ignore

    def rsample_terms(
        self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> FlowSample:
        """Draw z with log q₀(z₀) and Σ_k ladj_k, each (*sample_shape, *batch_shape)."""
        raise NotImplementedError

    def at_noise(self, eps: Tensor) -> FlowSample:
        """What a draw would be with ε ~ N(0, I) given, (..., *batch_shape, D).

        Expectations under q become integrals over ε, whose density is smooth however sharply the
        flow folds z: that is how KL(q ‖ p(z|x)) is computed exactly.

        Raises:
            NotImplementedError: the distribution is not made from Gaussian noise, or does not say.
        """
        raise NotImplementedError(f"{type(self).__name__} has no at_noise")

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

    def tensors(self) -> dict[str, Tensor]:
        """What the distribution is made of, by name: its batch dimensions come first.

        With :meth:`with_tensors` this takes a distribution apart and puts it together again, which
        is what an exported model does.

        Raises:
            NotImplementedError: the distribution does not say.
        """
        raise NotImplementedError(f"{type(self).__name__} has no tensors")

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """The same kind of distribution, made of other :meth:`tensors`; shared ones may stay.

        Examples:
            >>> import torch
            >>> from flowvae.distributions import DiagonalGaussian
            >>> q = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
            >>> q.with_tensors({name: value[:1] for name, value in q.tensors().items()}).batch_shape
            torch.Size([1])
        """
        raise NotImplementedError(f"{type(self).__name__} has no with_tensors")

    def detached(self) -> LatentDistribution:
        """The same distribution with its parameters cut from the graph.

        ``q.detached().log_prob(z)`` has a gradient with respect to z alone: what path gradients
        are made of. Every tensor among the attributes is detached, and every attribute with a
        ``detached()`` of its own; one that computes with a module has to say itself how.

        Raises:
            NotImplementedError: the distribution holds a module.

        Examples:
            >>> import torch
            >>> from flowvae.distributions import DiagonalGaussian
            >>> q = DiagonalGaussian(torch.zeros(2, requires_grad=True), torch.zeros(2))
            >>> q.detached().log_prob(torch.ones(2)).requires_grad
            False
        """
        return with_detached_tensors(self)


def standard_noise(
    q: LatentDistribution,
    sample_shape: tuple[int, ...],
    like: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """ε ~ N(0, I) in the shape of draws of q, in the dtype and on the device of a tensor.

    Of several processes each gets the noise of its own data, the first dimension of q's batch.
    """
    shape = q._extended_shape(torch.Size(sample_shape))
    options: Any = {"generator": generator, "dtype": like.dtype, "device": like.device}
    if not q.batch_shape:
        return torch.randn(shape, **options)
    return noise_of_batch(shape, len(sample_shape), lambda whole: torch.randn(whole, **options))


def draw(loc: Tensor, log_var: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """z = μ + σ ⊙ ε and log N(z; μ, diag σ²) in terms of ε: no division by a small σ.

    μ and log σ² are (..., D), ε is (*samples, ..., D); the log-density has no D, in nats.
    """
    log_sigma = 0.5 * log_var
    z = torch.addcmul(loc, log_sigma.exp(), eps)
    return z, standard_log_prob(eps) - log_sigma.sum(-1)


def standard_log_prob(eps: Tensor) -> Tensor:
    """log N(ε; 0, I), (...), in nats."""
    return -0.5 * eps.square().sum(-1) - 0.5 * math.log(2 * math.pi) * eps.shape[-1]

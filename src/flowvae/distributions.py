"""Distributions over z that can draw a sample and its log-density in one pass."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from flowvae.flows.planar import Constraint, planar_flow, planar_flow_inverse

__all__ = ["DiagonalGaussian", "FlowSample", "LatentDistribution", "PlanarFlowDistribution"]


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

    def detached(self) -> LatentDistribution:
        """The same distribution with its parameters cut from the graph.

        ``q.detached().log_prob(z)`` has a gradient with respect to z alone: what path gradients
        are made of. Every tensor among the attributes is detached, and every distribution; one
        that computes with a module has to say itself how.

        Raises:
            NotImplementedError: the distribution holds a module.

        Examples:
            >>> import torch
            >>> q = DiagonalGaussian(torch.zeros(2, requires_grad=True), torch.zeros(2))
            >>> q.detached().log_prob(torch.ones(2)).requires_grad
            False
        """
        twin = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(twin, name, value.detach())
            elif isinstance(value, LatentDistribution):
                setattr(twin, name, value.detached())
            elif isinstance(value, nn.Module):
                raise NotImplementedError(
                    f"{type(self).__name__}.detached: attribute {name} is a module, whose "
                    "parameters cannot be detached in general; override detached()"
                )
        return twin


class DiagonalGaussian(LatentDistribution):
    """N(μ, diag σ²) on R^D, parametrized by log σ².

    log q(z) = -D/2 log 2π - ½ Σ_d (log σ_d² + (z_d - μ_d)²/σ_d²)

    Args:
        loc: μ, (..., D).
        log_var: log σ², (..., D).

    Examples:
        >>> import torch
        >>> q = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
        >>> z, log_q = q.rsample_and_log_prob((3,))
        >>> z.shape, torch.allclose(log_q, q.log_prob(z))
        (torch.Size([3, 4, 2]), True)
    """

    arg_constraints = {  # pyright: ignore
        "loc": constraints.real_vector,
        "log_var": constraints.real_vector,
    }

    def __init__(self, loc: Float[Tensor, "*batch D"], log_var: Float[Tensor, "*batch D"]) -> None:
        self.loc, self.log_var = loc, log_var
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.log_var.exp()

    def rsample_terms(
        self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> FlowSample:
        shape = self._extended_shape(torch.Size(sample_shape))
        loc = self.loc
        return self.at_noise(
            torch.randn(shape, generator=generator, dtype=loc.dtype, device=loc.device)
        )

    def at_noise(self, eps: Tensor) -> FlowSample:
        # The density of z₀ = μ + σ ⊙ ε in terms of ε: no division by a small σ.
        log_base = -0.5 * (eps.square() + self.log_var + math.log(2 * math.pi)).sum(-1)
        z = self.loc + (0.5 * self.log_var).exp() * eps
        return FlowSample(z, log_base, torch.zeros_like(log_base))

    def log_prob(self, value: Tensor) -> Tensor:
        eps = (value - self.loc) * (-0.5 * self.log_var).exp()
        return -0.5 * (eps.square() + self.log_var + math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        return 0.5 * (self.log_var + math.log(2 * math.pi * math.e)).sum(-1)


class PlanarFlowDistribution(LatentDistribution):
    """A diagonal Gaussian pushed through K planar flows (arXiv 1505.05770).

    log q_K(z_K) = log q₀(z₀) - Σ_k ladj_k

    Args:
        base: q₀, batch (...), event (D,).
        w: directions, (..., K, D).
        u: unconstrained shifts, (..., K, D).
        b: offsets, (..., K).
        constraint: ``"paper"`` or ``"centred"``, see :func:`flowvae.flows.planar_flow`.

    Examples:
        >>> import torch
        >>> base = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
        >>> w, u, b = torch.randn(4, 3, 2), torch.randn(4, 3, 2), torch.randn(4, 3)
        >>> q = PlanarFlowDistribution(base, w, u, b, "paper")
        >>> z, log_q = q.rsample_and_log_prob((10,))
        >>> z.shape, log_q.shape, q.first(1).num_flows
        (torch.Size([10, 4, 2]), torch.Size([10, 4]), 1)
    """

    arg_constraints = {}  # pyright: ignore

    def __init__(
        self,
        base: DiagonalGaussian,
        w: Float[Tensor, "*batch K D"],
        u: Float[Tensor, "*batch K D"],
        b: Float[Tensor, "*batch K"],
        constraint: Constraint,
    ) -> None:
        self.base, self.w, self.u, self.b = base, w, u, b
        self.constraint: Constraint = constraint
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def num_flows(self) -> int:
        return self.w.shape[-2]

    def first(self, k: int) -> PlanarFlowDistribution:
        """The distribution of z_k: the base through the first k flows only."""
        w, u, b = self.w[..., :k, :], self.u[..., :k, :], self.b[..., :k]
        return PlanarFlowDistribution(self.base, w, u, b, self.constraint)

    def flow(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Push z₀ (..., D) forward: z_K and Σ_k ladj_k."""
        return planar_flow(z, self.w, self.u, self.b, self.constraint)

    def rsample_terms(
        self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> FlowSample:
        z_0, log_base, _ = self.base.rsample_terms(sample_shape, generator)
        z_K, ladj = self.flow(z_0)
        return FlowSample(z_K, log_base, ladj)

    def at_noise(self, eps: Tensor) -> FlowSample:
        z_0, log_base, _ = self.base.at_noise(eps)
        z_K, ladj = self.flow(z_0)
        return FlowSample(z_K, log_base, ladj)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q_K at any point, drawn here or not, by the exact inverse of the flows."""
        z_0, ladj = planar_flow_inverse(value, self.w, self.u, self.b, self.constraint)
        return self.base.log_prob(z_0) + ladj

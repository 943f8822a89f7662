"""A Gaussian pushed through invertible maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvae.distributions.base import (
    FlowSample,
    LatentDistribution,
    draw,
    standard_log_prob,
    standard_noise,
)
from flowvae.distributions.gaussian import DiagonalGaussian
from flowvae.flows.planar import Constraint, planar_flow, planar_flow_inverse

__all__ = [
    "FlowDistribution",
    "NeuralFlowDistribution",
    "ParametricFlowDistribution",
    "PlanarFlowDistribution",
]


class FlowDistribution(LatentDistribution):
    """A base distribution pushed through K invertible maps of R^D.

    log q_K(z_K) = log q₀(z₀) - Σ_k ladj_k. A subclass writes :meth:`flow`, :meth:`flow_inverse`
    and :meth:`first`.

    Args:
        base: q₀, batch (...), event (D,).
        num_flows: K.
    """

    arg_constraints = {}  # pyright: ignore

    def __init__(self, base: DiagonalGaussian, num_flows: int) -> None:
        self.base, self.num_flows = base, num_flows
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def flow(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Push z₀ (..., D) forward: z_K and Σ_k ladj_k."""
        raise NotImplementedError

    def flow_inverse(self, z_K: Tensor) -> tuple[Tensor, Tensor]:
        """Pull z_K (..., D) back: z₀ and the log-determinant of this map, -Σ_k ladj_k."""
        raise NotImplementedError

    def first(self, k: int) -> FlowDistribution:
        """The distribution of z_k: the base through the first k flows only."""
        raise NotImplementedError

    def rsample_terms(
        self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> FlowSample:
        return self.at_noise(standard_noise(self, sample_shape, self.base.loc, generator))

    def at_noise(self, eps: Tensor) -> FlowSample:
        z_0, log_base = draw(self.base.loc, self.base.log_var, eps)
        z_K, ladj = self.flow(z_0)
        return FlowSample(z_K, log_base, ladj)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q_K at any point, drawn here or not, by the exact inverse of the flows."""
        z_0, ladj = self.flow_inverse(value)
        return self.base.log_prob(z_0) + ladj


FlowMap = Callable[..., tuple[Tensor, Tensor]]


class ParametricFlowDistribution(FlowDistribution):
    """A flow distribution whose maps are functions of their parameters.

    Args:
        base: q₀, batch (...), event (D,).
        forward: (z, *parameters) -> (z_K, Σ_k ladj_k).
        inverse: (z_K, *parameters) -> (z, -Σ_k ladj_k).
        parameters: each (..., K, *event), batch dimensions broadcasting with the base's.
        ranks: the number of dimensions of each parameter's event.

    Examples:
        >>> import torch
        >>> from flowvae.flows import householder_flow, householder_flow_inverse
        >>> base = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
        >>> q = ParametricFlowDistribution(
        ...     base, householder_flow, householder_flow_inverse, [torch.randn(4, 3, 2)], [1])
        >>> q.num_flows, q.first(1).num_flows, q.log_prob(q.rsample((5,))).shape
        (3, 1, torch.Size([5, 4]))
    """

    def __init__(
        self,
        base: DiagonalGaussian,
        forward: FlowMap,
        inverse: FlowMap,
        parameters: Sequence[Tensor],
        ranks: Sequence[int],
    ) -> None:
        self._forward, self._inverse = forward, inverse
        self.parameters, self.ranks = tuple(parameters), tuple(ranks)
        super().__init__(base, self.parameters[0].shape[-1 - self.ranks[0]])

    def flow(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._forward(z, *self.parameters)

    def flow_inverse(self, z_K: Tensor) -> tuple[Tensor, Tensor]:
        return self._inverse(z_K, *self.parameters)

    def first(self, k: int) -> ParametricFlowDistribution:
        return self._with(
            self.base,
            [
                p.narrow(-1 - rank, 0, k)
                for p, rank in zip(self.parameters, self.ranks, strict=True)
            ],
        )

    def detached(self) -> ParametricFlowDistribution:
        return self._with(self.base.detached(), [p.detach() for p in self.parameters])

    def _with(
        self, base: DiagonalGaussian, parameters: Sequence[Tensor]
    ) -> ParametricFlowDistribution:
        return ParametricFlowDistribution(
            base, self._forward, self._inverse, parameters, self.ranks
        )


class NeuralFlowDistribution(FlowDistribution):
    """A flow distribution whose maps are a module's, such as
    :class:`flowvae.flows.InverseAutoregressiveFlow`.

    Args:
        base: q₀, N(μ, diag σ²) with batch (...), event (D,).
        module: ``(z, context, num_flows, inverted)`` -> (z, log-determinant).
        context: what the maps are conditioned on, (..., C), if anything.
        num_flows: K.
        standardized: the maps act on ε = (z - μ)/σ instead of z: for maps that are at work in a
            fixed box only, such as splines.
    """

    def __init__(
        self,
        base: DiagonalGaussian,
        module: Callable[..., tuple[Tensor, Tensor]],
        context: Tensor | None,
        num_flows: int,
        standardized: bool = False,
    ) -> None:
        self.module, self.context, self.standardized = module, context, standardized
        super().__init__(base, num_flows)

    def flow(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(z, inverted=False)

    def flow_inverse(self, z_K: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(z_K, inverted=True)

    def _map(self, z: Tensor, inverted: bool) -> tuple[Tensor, Tensor]:
        if not self.standardized:
            return self.module(z, self.context, self.num_flows, inverted)
        eps = (z - self.base.loc) * (-0.5 * self.base.log_var).exp()
        eps, ladj = self.module(eps, self.context, self.num_flows, inverted)
        return self.base.loc + (0.5 * self.base.log_var).exp() * eps, ladj

    def first(self, k: int) -> NeuralFlowDistribution:
        return NeuralFlowDistribution(self.base, self.module, self.context, k, self.standardized)

    def at_noise(self, eps: Tensor) -> FlowSample:
        if not self.standardized:
            return super().at_noise(eps)
        # ε itself, rather than z₀ standardized again, which rounds where σ is small.
        log_base = standard_log_prob(eps) - 0.5 * self.base.log_var.sum(-1)
        eps, ladj = self.module(eps, self.context, self.num_flows, False)
        z = self.base.loc + (0.5 * self.base.log_var).exp() * eps
        return FlowSample(z, log_base, ladj)

    def detached(self) -> NeuralFlowDistribution:
        context = None if self.context is None else self.context.detach()
        module = self.module
        if isinstance(module, nn.Module):
            module = _WithDetachedParameters(module)
        return NeuralFlowDistribution(
            self.base.detached(), module, context, self.num_flows, self.standardized
        )


class _WithDetachedParameters:
    """Calls a module as if its parameters were constants."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parameters = {name: p.detach() for name, p in module.named_parameters()}

    def __call__(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(self.module, self.parameters, arguments)


class PlanarFlowDistribution(FlowDistribution):
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
        super().__init__(base, w.shape[-2])

    def first(self, k: int) -> PlanarFlowDistribution:
        """The distribution of z_k: the base through the first k flows only."""
        w, u, b = self.w[..., :k, :], self.u[..., :k, :], self.b[..., :k]
        return PlanarFlowDistribution(self.base, w, u, b, self.constraint)

    def flow(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Push z₀ (..., D) forward: z_K and Σ_k ladj_k."""
        return planar_flow(z, self.w, self.u, self.b, self.constraint)

    def flow_inverse(self, z_K: Tensor) -> tuple[Tensor, Tensor]:
        return planar_flow_inverse(z_K, self.w, self.u, self.b, self.constraint)

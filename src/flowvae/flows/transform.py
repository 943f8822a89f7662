"""Planar flows as others expect them: a ``torch.distributions`` transform, and a module to fit."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import (
    Independent,
    Normal,
    Transform,
    TransformedDistribution,
    constraints,
)

from flowvae.flows.planar import CONSTRAINTS, Constraint, planar_flow, planar_flow_inverse

__all__ = ["PlanarFlow", "PlanarTransform"]


class PlanarTransform(Transform):
    """K planar flows as a bijection of R^D, for ``TransformedDistribution``, Pyro and zuko.

    Args:
        w: directions, (..., K, D).
        u: unconstrained shifts, (..., K, D).
        b: offsets, (..., K).
        constraint: ``"paper"`` or ``"centred"``, see :func:`flowvae.flows.planar_flow`.
        cache_size: 1 keeps the last pair of points, as in ``torch.distributions``.

    Source: "Variational Inference with Normalizing Flows", arXiv 1505.05770.

    Examples:
        >>> import torch
        >>> from torch.distributions import Independent, Normal, TransformedDistribution
        >>> from flowvae.flows import PlanarTransform
        >>> flow = PlanarTransform(torch.randn(3, 2), torch.randn(3, 2), torch.randn(3))
        >>> base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> q = TransformedDistribution(base, [flow])
        >>> q.log_prob(torch.randn(5, 2)).shape   # at points it did not draw: the exact inverse
        torch.Size([5])
        >>> z, ladj = flow.inv.call_and_ladj(flow(torch.ones(2)))
        >>> torch.allclose(z, torch.ones(2), atol=1e-4)
        True
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(
        self,
        w: Float[Tensor, "*#params K D"],
        u: Float[Tensor, "*#params K D"],
        b: Float[Tensor, "*#params K"],
        constraint: Constraint = "paper",
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size=cache_size)
        self.w, self.u, self.b = w, u, b
        self.constraint: Constraint = constraint

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z_K and log|det ∂z_K/∂z|, in one pass."""
        return planar_flow(x, self.w, self.u, self.b, self.constraint)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """z and log|det ∂z/∂z_K|, in one pass."""
        return planar_flow_inverse(y, self.w, self.u, self.b, self.constraint)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        del y
        return self.call_and_ladj(x)[1]

    def with_cache(self, cache_size: int = 1) -> PlanarTransform:
        return PlanarTransform(self.w, self.u, self.b, self.constraint, cache_size)

    @property
    def inv(self) -> _Inverse:
        """The inverse transform, with ``call_and_ladj`` as well."""
        return _Inverse(self)

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]


class _Inverse(Transform):
    """The inverse of a :class:`PlanarTransform`."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, transform: PlanarTransform) -> None:
        super().__init__()
        self._forward = transform

    @property
    def inv(self) -> PlanarTransform:
        return self._forward

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._forward.inverse_and_ladj(x)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        del x
        return -self._forward.call_and_ladj(y)[1]

    def _call(self, x: Tensor) -> Tensor:
        return self._forward._inverse(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._forward._call(y)


class PlanarFlow(nn.Module):
    """A density on R^D to fit: N(0, I) through K planar flows with parameters of its own.

    log q(z_K) = log N(z; 0, I) + log|det ∂z/∂z_K|,  z the inverse of the flows at z_K.

    Args:
        dim: D ≥ 1.
        num_flows: K ≥ 0.
        constraint: ``"centred"`` (the default: it starts and stays near the identity where u
            is small) or ``"paper"``.

    Examples:
        >>> import torch
        >>> from flowvae.flows import PlanarFlow
        >>> flow = PlanarFlow(dim=2, num_flows=8)
        >>> loss = -flow().log_prob(torch.randn(100, 2)).mean()
        >>> loss.backward()
        >>> flow().sample((5,)).shape
        torch.Size([5, 2])
    """

    zeros: Tensor

    def __init__(self, dim: int, num_flows: int, constraint: Constraint = "centred") -> None:
        super().__init__()
        if dim < 1 or num_flows < 0:
            raise ValueError(
                f"dim, num_flows: expected at least 1 and 0, got {dim} and {num_flows}"
            )
        if constraint not in CONSTRAINTS:
            raise ValueError(f"constraint: expected one of {CONSTRAINTS}, got {constraint!r}")
        self.constraint: Constraint = constraint
        self.w = nn.Parameter(torch.randn(num_flows, dim) / dim**0.5)
        self.u = nn.Parameter(0.1 * torch.randn(num_flows, dim))
        self.b = nn.Parameter(torch.randn(num_flows))
        self.register_buffer("zeros", torch.zeros(dim), persistent=False)

    def forward(self) -> TransformedDistribution:
        """The distribution at the present parameters."""
        base = Independent(Normal(self.zeros, 1.0, validate_args=False), 1, validate_args=False)
        return TransformedDistribution(
            base, [PlanarTransform(self.w, self.u, self.b, self.constraint)], validate_args=False
        )

"""One abstraction for all flows: an invertible map of R^D in K layers, with its parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar, Self, TypeVar

from torch import Tensor, nn
from torch.distributions import Transform, constraints

__all__ = ["Bijection", "with_detached_tensors"]

Thing = TypeVar("Thing")


class Bijection(Transform):
    """K invertible layers on R^D:  z_K = f_K ∘ … ∘ f_1(z),  ladj = Σ_k log|det ∂z_k/∂z_{k-1}|.

    A bijection is a ``torch.distributions.Transform``, so it serves in ``TransformedDistribution``,
    in Pyro and in zuko. A family writes :meth:`forward_and_ladj` and :meth:`inverse_and_ladj`, and
    says in :attr:`layered` which of its attributes are parameters.

    Args:
        cache_size: 1 keeps the last pair of points, as in ``torch.distributions``.

    Examples:
        >>> import torch
        >>> from flowvae.flows import RadialTransform
        >>> f = RadialTransform(torch.randn(3, 2), torch.randn(3), torch.randn(3))
        >>> z_K, ladj = f.forward_and_ladj(torch.zeros(5, 2))
        >>> z_K.shape, ladj.shape, f.num_flows, f.first(1).num_flows
        (torch.Size([5, 2]), torch.Size([5]), 3, 1)
        >>> torch.allclose(f.inv(z_K), torch.zeros(5, 2), atol=1e-4)
        True
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    # The parameters by name, (..., K, *event) each, with the number of dimensions of their events.
    layered: ClassVar[dict[str, int]] = {}

    def forward_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (..., D) -> z_K, (..., D), and Σ_k ladj_k, (...), in nats."""
        raise NotImplementedError

    def inverse_and_ladj(self, z_K: Tensor) -> tuple[Tensor, Tensor]:
        """z_K (..., D) -> z, (..., D), and the log-determinant of this map, -Σ_k ladj_k, (...)."""
        raise NotImplementedError

    @property
    def num_flows(self) -> int:
        """K."""
        name, rank = next(iter(self.layered.items()))
        return getattr(self, name).shape[-1 - rank]

    def first(self, k: int) -> Self:
        """The first k layers alone."""
        twin = copy.copy(self)
        for name, rank in self.layered.items():
            if (value := getattr(self, name)) is not None:
                setattr(twin, name, value.narrow(-1 - rank, 0, k))
        return twin.with_cache(self._cache_size)

    def tensors(self) -> dict[str, Tensor]:
        """Its parameters by name, (..., K, *event) each."""
        found = {name: getattr(self, name) for name in self.layered}
        return {name: value for name, value in found.items() if value is not None}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """The same kind of map with other parameters; those that are not given stay."""
        twin = self.with_cache(self._cache_size)
        for name, value in tensors.items():
            setattr(twin, name, value)
        return twin

    def detached(self) -> Self:
        """The same map, its parameters cut from the graph."""
        return with_detached_tensors(self).with_cache(self._cache_size)

    def with_cache(self, cache_size: int = 1) -> Self:
        """The same map with a new cache of points."""
        twin = copy.copy(self)
        Transform.__init__(twin, cache_size)
        return twin

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`forward_and_ladj` by the name that zuko calls it."""
        return self.forward_and_ladj(x)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        del y
        return self.forward_and_ladj(x)[1]

    @property
    def inv(self) -> Bijection:
        """The inverse map, a bijection too."""
        return _Inverse(self)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x)  # pyright: ignore[reportReturnType] - which has no types

    def _call(self, x: Tensor) -> Tensor:
        return self.forward_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]


class _Inverse(Bijection):
    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self._bijection = bijection

    @property
    def inv(self) -> Bijection:
        return self._bijection

    @property
    def num_flows(self) -> int:
        return self._bijection.num_flows

    def forward_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._bijection.inverse_and_ladj(z)

    def inverse_and_ladj(self, z_K: Tensor) -> tuple[Tensor, Tensor]:
        return self._bijection.forward_and_ladj(z_K)

    def first(self, k: int) -> Self:
        raise NotImplementedError("the layers of an inverse come last first: use inv.first(k)")


def with_detached_tensors(thing: Thing) -> Thing:
    """A shallow copy in which tensors, and what has a ``detached()`` of its own, are detached.

    Raises:
        NotImplementedError: an attribute is a module, whose parameters cannot be detached.
    """
    twin = copy.copy(thing)
    for name, value in vars(thing).items():
        if isinstance(value, Tensor):
            setattr(twin, name, value.detach())
        elif hasattr(value, "detached"):
            setattr(twin, name, value.detached())
        elif isinstance(value, nn.Module):
            raise NotImplementedError(
                f"{type(thing).__name__}.detached: attribute {name} is a module, whose "
                "parameters cannot be detached in general; override detached()"
            )
    return twin

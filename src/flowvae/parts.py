"""What a model asks of its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from flowvae.distributions import LatentDistribution

__all__ = ["Posterior", "Prior", "PriorOfPosterior"]


@runtime_checkable
class Posterior(Protocol):
    """A module that maps features (..., H) to q(z|x), of batch (...) and event (D,)."""

    def __call__(self, features: Tensor, /) -> LatentDistribution: ...


@runtime_checkable
class Prior(Protocol):
    """A module that gives p(z), of event (D,).

    One with a true ``conditional`` is called with a condition (..., C) and gives p(z|y), of batch
    (...); the others are p(z) whatever the condition.
    """

    def __call__(self) -> LatentDistribution: ...


@runtime_checkable
class PriorOfPosterior(Prior, Protocol):
    """A prior that is made of the posterior, as the VampPrior is."""

    def bind(self, posterior: Callable[[Tensor], LatentDistribution], /) -> None:
        """Take q(z|x), a function of data (B, P)."""
        ...

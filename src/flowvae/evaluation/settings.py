"""How much of everything the full evaluation does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

__all__ = ["FullSettings"]


@dataclass(frozen=True)
class FullSettings:
    """How much of everything; counts are of test data, and no more than there are.

    Args:
        samples: S of importance sampling.
        count: data for importance sampling; all if not given.
        mixture_count: data for importance sampling from a mixture with the prior's best draws.
        quadrature_count: data for quadrature, where D ≤ 2.
        ais_count: data for annealed importance sampling.
        ais_chains: C, for each datum.
        ais_temperatures: T.
        ais_leapfrog: steps of a trajectory.
        bdmc_count: data simulated to check annealing from both sides.
        gap_count: data to whose posterior q is fitted.
        gap_steps: of the fit.
        refine_count: data whose q is refined.
        refine_steps: of the refinement.
        information_count: N for the mutual information and the active units.
    """

    samples: int = 5000
    count: int | None = None
    mixture_count: int = 1000
    quadrature_count: int = 1000
    ais_count: int = 50
    ais_chains: int = 16
    ais_temperatures: int = 500
    ais_leapfrog: int = 10
    bdmc_count: int = 50
    gap_count: int = 100
    gap_steps: int = 500
    refine_count: int = 1000
    refine_steps: int = 6
    information_count: int = 2000

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value is not None and value < 1:
                raise ValueError(f"{each.name}: expected at least 1, got {value}")

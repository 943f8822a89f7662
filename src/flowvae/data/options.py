"""How data is read."""

from __future__ import annotations

from flowvae.config.sections import DataSection

__all__ = ["Options"]


class Options(DataSection):
    """The data section of a :class:`flowvae.Config`, and the seed of its splits."""

    seed: int = 0

    @property
    def budget_bytes(self) -> int:
        """The memory that data may take."""
        return int(self.memory_budget * 2**30)

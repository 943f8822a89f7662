"""How data is read: the settings of an experiment that concern it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from flowvae.config import Config

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """See the fields of the same names in :class:`flowvae.Config`.

    Args:
        test_fraction: share held out where the data names no test set.
        validation_fraction: share of the rest held out for validation; none if 0.
        seed: of these splits.
        label_column: what is kept apart as labels.
        categorical_columns: columns of numbers that are names.
        drop_columns: columns left out.
        missing: what to do where a table has no value.
        scaling: whether arrays are standardised, as tables always are.
        image_size: (height, width) to which pictures are resized; as they are if empty.
        memory_budget: in GiB; larger arrays stay in their file.
    """

    test_fraction: float = 0.1
    validation_fraction: float = 0.0
    seed: int = 0
    label_column: str | None = None
    categorical_columns: tuple[str, ...] = ()
    drop_columns: tuple[str, ...] = ()
    missing: Literal["refuse", "impute"] = "refuse"
    scaling: Literal["auto", "none", "standard"] = "auto"
    image_size: tuple[int, ...] = ()
    memory_budget: float = 1.0

    @classmethod
    def from_config(cls, config: Config) -> Options:
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})

    @property
    def budget_bytes(self) -> int:
        return int(self.memory_budget * 2**30)

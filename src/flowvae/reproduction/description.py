"""What a table of ``flowvae reproduce`` is, and what ``--quick`` makes of one.

Must not import torch: the command line reads this file to answer ``--help``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "QUICK",
    "QUICK_CLASSIFY",
    "QUICK_FULL",
    "QUICK_PROGRAM",
    "Measure",
    "Row",
    "Table",
    "settings_of",
]

# What --quick puts in place of a table's own settings, on a small part of the data.
QUICK: dict[str, Any] = {"epochs": 2, "evaluation_samples": 10}
QUICK_FULL: dict[str, int] = {
    "samples": 20,
    "count": 20,
    "mixture_count": 10,
    "quadrature_count": 2,
    "ais_count": 2,
    "ais_chains": 2,
    "ais_temperatures": 5,
    "bdmc_count": 2,
    "gap_count": 2,
    "gap_steps": 5,
    "refine_count": 2,
    "refine_steps": 2,
    "information_count": 20,
}
QUICK_CLASSIFY: dict[str, int] = {"samples": 5, "count": 100}
QUICK_PROGRAM: dict[str, Any] = {"updates": 200}


@dataclass(frozen=True)
class Measure:
    """A column: where its figure is in a run's files, and its heading.

    Args:
        heading: of the column.
        path: keys that lead to it in ``evaluation.json``, or, where the first is ``full``, in
            ``evaluation/full.json``, or, where it is ``energy`` or ``classification``, in the file
            of this name.
        sign: what it is multiplied by, -1 where the table shows the negative.
        plus: what is then added.
    """

    heading: str
    path: tuple[str, ...]
    sign: int = 1
    plus: float = 0.0


@dataclass(frozen=True)
class Row:
    """A row: its name, the settings of its runs, and published figures by the measure's heading."""

    name: str
    settings: Mapping[str, Any]
    published: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table: what its runs share, and how they differ.

    Args:
        title: heading of the page.
        source: where the published figures are from, if there are such.
        text: what to know when reading it: in what the runs differ from the published ones.
        measures: the columns; seeds are shown singly for the first.
        rows: in their order.
        shared: settings of all runs.
        seeds: how many runs make a row.
        pairs: rows whose differences by seed are shown, (row, minus row).
        full: flags of ``flowvae evaluate --full``, where the measures need it.
        classify: flags of ``flowvae classify``, for the rows that have a condition.
        program: module that makes a run in place of ``flowvae train``.
    """

    title: str
    source: str
    text: str
    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    shared: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 3
    pairs: tuple[tuple[str, str], ...] = ()
    full: Mapping[str, int] | None = None
    classify: Mapping[str, int] | None = None
    program: str | None = None


def settings_of(table: Table, row: str) -> dict[str, Any]:
    """What the runs of a row are trained with, as JSON has it: lists for tuples.

    Examples:
        >>> table = Table("", "", "", (), (Row("deep", {"hidden_dims": (9, 9)}),), {"epochs": 3})
        >>> settings_of(table, "deep")
        {'epochs': 3, 'hidden_dims': [9, 9]}
    """
    own = next(each.settings for each in table.rows if each.name == row)
    settings = {**table.shared, **own}
    return {k: list(value) if isinstance(value, tuple) else value for k, value in settings.items()}

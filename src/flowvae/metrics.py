"""The rows of ``metrics.csv``: a list of dictionaries, which a notebook shows as a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np

from flowvae.errors import UserError
from flowvae.files import write_csv

__all__ = ["Metrics", "read_metrics", "write_metrics"]

_ALWAYS = (
    "epoch",
    *(
        f"{split}_{term}"
        for split in ("train", "test")
        for term in ("elbo", "log_likelihood", "kl", "ladj")
    ),
)
_EACH_END = 10  # rows that a long table shows of its beginning and of its end


class Metrics(list[dict[str, float]]):
    """One dictionary an epoch, in order; all have the same keys.

    It is a list whether pandas is installed or not, so ``metrics[-1]["test_elbo"]`` is the last
    epoch's and an empty one is false. A name gives a column, :meth:`to_frame` a DataFrame, and a
    notebook shows a table.

    Examples:
        >>> rows = Metrics([{"epoch": 1.0, "test_elbo": -9.5}, {"epoch": 2.0, "test_elbo": -8.0}])
        >>> rows[-1]["test_elbo"], len(rows)
        (-8.0, 2)
        >>> rows["test_elbo"]
        array([-9.5, -8. ])
    """

    @overload
    def __getitem__(self, index: SupportsIndex) -> dict[str, float]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, float]]: ...
    @overload
    def __getitem__(self, index: str) -> np.ndarray: ...
    def __getitem__(self, index: SupportsIndex | slice | str) -> Any:
        """A row by its number, rows by a slice, or a column, (epochs,), by its name.

        Raises:
            UserError: there is no column of this name.
        """
        if isinstance(index, slice):
            return Metrics(super().__getitem__(index))
        if not isinstance(index, str):
            return super().__getitem__(index)
        if index not in self.columns:
            there = ", ".join(self.columns) or "none: no epoch has ended"
            raise UserError(f"metrics: expected a column of {there}; got {index!r}")
        return np.array([row[index] for row in self])

    @property
    def columns(self) -> list[str]:
        """Their names, in order."""
        return list(self[0]) if self else []

    def to_frame(self) -> Any:
        """The same as a pandas DataFrame with one row an epoch.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError(
                "metrics: a DataFrame needs pandas, which is not installed; "
                "pip install 'flowvae[notebook]'"
            ) from None
        return pandas.DataFrame(list(self), columns=self.columns)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        if not self:
            return "<p>No epoch has ended.</p>"
        rows: Sequence[dict[str, float] | None] = self
        if len(self) > 2 * _EACH_END:
            rows = [*self[:_EACH_END], None, *self[-_EACH_END:]]
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{_cell(row, name)}</td>" for name in self.columns) + "</tr>"
            for row in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(row: dict[str, float] | None, name: str) -> str:
    return "…" if row is None else f"{row[name]:.6g}"


def read_metrics(file: Path) -> Metrics:
    """The rows of a file that :func:`write_metrics` wrote; none if it is not there.

    Raises:
        UserError: it is corrupt.
    """
    if not file.exists():
        return Metrics()
    try:
        header, *rows = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()]
        for name in _ALWAYS:
            if name not in header:
                raise ValueError(f"expected a column {name}, got none")
        return Metrics(dict(zip(header, map(float, row), strict=True)) for row in rows)
    except ValueError as error:
        raise UserError(f"run: {file} is corrupt: {error}") from None


def write_metrics(file: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write rows, at least one, under a line of their names, whole or not at all."""
    values = [[f"{value:.10g}" for value in row.values()] for row in rows]
    write_csv(file, list(rows[0]), values)

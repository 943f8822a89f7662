"""Tables: what their columns are, and rows as numbers and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flowvae.data.columns import Column, encoded_slices, encoded_width, is_constant
from flowvae.errors import UserError

__all__ = ["RawColumn", "decode_table", "encode_table", "fit_columns", "infer_columns"]

_MOST_CATEGORIES = 1000


@dataclass(frozen=True)
class RawColumn:
    """A column as read: numbers (float64), or texts, and where there is nothing.

    Args:
        values: (N,) of float64, or of str objects; whatever it is where ``missing``.
        missing: (N,) of bool.
    """

    values: np.ndarray
    missing: np.ndarray

    @property
    def numeric(self) -> bool:
        return self.values.dtype.kind == "f"

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: np.ndarray) -> RawColumn:
        return replace(self, values=self.values[index], missing=self.missing[index])


RawTable = Mapping[str, RawColumn]


def infer_columns(table: RawTable, categorical: Sequence[str] = ()) -> tuple[Column, ...]:
    """Kinds and categories, from all rows: the categories are what can occur, not an estimate.

    Texts are categories, two of them ``binary``; numbers are ``numeric`` unless all are 0 or 1
    (``binary``) or they are named in ``categorical``.

    Raises:
        UserError: a column is constant, empty, or texts that look like no categories.
    """
    unknown = [name for name in categorical if name not in table]
    if unknown:
        raise UserError(_no_column("categorical_columns", unknown[0], table))
    return tuple(_infer(name, column, name in categorical) for name, column in table.items())


def fit_columns(
    columns: Sequence[Column], table: RawTable, impute: bool = False
) -> tuple[Column, ...]:
    """The columns with mean, scale and fill of this table, the training split.

    Raises:
        UserError: a numeric column is constant there, or has no value.
    """
    return tuple(_fit(column, table[column.name], impute) for column in columns)


def encode_table(
    columns: Sequence[Column],
    table: RawTable,
    name: str = "table",
    numbers: np.ndarray | None = None,
    *,
    gaps: bool = False,
) -> np.ndarray:
    """Rows as numbers, see :class:`Column`: (N, P), float32.

    Columns are found by name; others are ignored. Errors tell of the table as ``name``, and of its
    rows by their ``numbers`` (N,) in a larger one, counted from 0, if it was cut out of one. With
    ``gaps`` all numbers of a value that is missing are NaN.

    Raises:
        UserError: a column is missing; a value is missing where the columns were fitted to none
            missing, is no number or no known category.

    Examples:
        >>> import numpy as np
        >>> columns = (Column("age", "numeric", mean=40.0, scale=10.0),
        ...            Column("colour", "categorical", ("blue", "green", "red")))
        >>> none = np.zeros(2, bool)
        >>> table = {"age": RawColumn(np.array([50.0, 30.0]), none),
        ...          "colour": RawColumn(np.array(["red", "blue"], object), none)}
        >>> encode_table(columns, table)
        array([[ 1.,  0.,  0.,  1.],
               [-1.,  1.,  0.,  0.]], dtype=float32)
    """
    for column in columns:
        if column.name not in table:
            raise UserError(_no_column(name, column.name, table))
    count = len(next(iter(table.values())))
    found = np.zeros((count, encoded_width(columns)), np.float32)
    for column, place in zip(columns, encoded_slices(columns), strict=True):
        raw = table[column.name]
        _encode(column, raw, found[:, place], name, numbers, gaps)
        if gaps:
            found[raw.missing, place] = np.nan
    return found


def decode_table(columns: Sequence[Column], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The inverse of :func:`encode_table`: name -> (N,) of float64 or of texts.

    A binary column gives its second text where the number is at least ½, a categorical one the
    text of its largest number, so means of p(x|z) can be decoded too.
    """
    found: dict[str, np.ndarray] = {}
    for column, place in zip(columns, encoded_slices(columns), strict=True):
        part = rows[:, place].astype(np.float64)
        if column.kind == "numeric":
            found[column.name] = part[:, 0] * column.scale + column.mean
        else:
            codes = part[:, 0] >= 0.5 if column.kind == "binary" else part.argmax(1)
            found[column.name] = np.array(column.categories, object)[codes.astype(np.int64)]
    return found


def texts(column: RawColumn) -> np.ndarray:
    """Values as categories are written: 3.0 as ``3``."""
    if not column.numeric:
        return column.values
    return np.array([_text(value) for value in column.values], object)


def _text(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(float(value))


def _no_column(where: str, wanted: str, table: RawTable) -> str:
    names = ", ".join(table)
    names = names if len(names) < 300 else f"{names[:300]} …"
    return f"{where}: expected a column {wanted!r}, got {names}"


def _infer(name: str, column: RawColumn, as_categories: bool) -> Column:
    present = column[~column.missing]
    if not len(present):
        raise UserError(f"data: column {name!r} has no value at all; leave it out by drop_columns")
    if column.numeric:
        infinite = np.isinf(present.values)
        if infinite.any():
            raise UserError(
                f"data: column {name!r}: expected finite numbers, got "
                f"{present.values[infinite][0]:g} in {int(infinite.sum())} rows"
            )
    if column.numeric and not as_categories:
        values = np.unique(present.values)
        if len(values) > 1:
            if np.array_equal(values, [0.0, 1.0]):
                return Column(name, "binary", ("0", "1"))
            return Column(name, "numeric")
    else:
        order: Callable[[str], Any] = float if column.numeric else str
        values = sorted(set(texts(present)), key=order)
        if len(values) > 1:
            _refuse_free_text(name, values, present)
            kind = "binary" if len(values) == 2 else "categorical"
            return Column(name, kind, tuple(values))
    value = values[0] if isinstance(values[0], str) else _text(values[0])
    raise UserError(f"data: column {name!r} is constant ({value}); leave it out by drop_columns")


def _refuse_free_text(name: str, values: list[str], present: RawColumn) -> None:
    if not present.numeric and len(values) > 10:
        odd = [value for value in values if not is_number(value)]
        if len(odd) <= len(values) / 10:
            raise UserError(
                f"data: column {name!r}: expected numbers, got {odd[0]!r}; correct it, leave it "
                "empty (see missing), or name the column in categorical_columns"
                if odd
                else f"data: column {name!r}: expected numbers, got texts of numbers"
            )
    if len(values) > _MOST_CATEGORIES or (len(values) > 10 and len(values) > len(present) / 2):
        raise UserError(
            f"data: column {name!r} has {len(values)} different texts in {len(present)} rows, too "
            "many for categories; leave it out by drop_columns"
        )


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _fit(column: Column, raw: RawColumn, impute: bool) -> Column:
    present = raw[~raw.missing]
    if column.kind == "numeric":
        values = present.values
        with np.errstate(over="ignore", invalid="ignore"):  # found below
            mean, scale = (values.mean(), values.std()) if len(values) else (math.nan, math.nan)
        if not len(values) or is_constant(mean, scale):
            raise UserError(
                f"data: column {column.name!r} is constant, or missing, in the training split; "
                "leave it out by drop_columns"
            )
        if not np.isfinite([mean, scale]).all():
            raise UserError(
                f"data: column {column.name!r}: expected a finite variance, got {scale}"
            )
        fill = float(mean) if impute else None
        return replace(column, mean=float(mean), scale=float(scale), fill=fill)
    if not impute:
        return column
    counts = dict.fromkeys(column.categories, 0)
    for text in texts(present):
        counts[text] += 1
    return replace(column, fill=max(column.categories, key=lambda category: counts[category]))


def _encode(
    column: Column,
    raw: RawColumn,
    out: np.ndarray,
    name: str,
    numbers: np.ndarray | None,
    gaps: bool,
) -> None:
    numbers = np.arange(len(raw)) if numbers is None else numbers
    missing = raw.missing
    if missing.any() and column.fill is None and not gaps:
        raise UserError(
            f"{name}: column {column.name!r}: expected a value in every row, got {missing.sum()} "
            f"missing, the first in row {numbers[missing].min() + 1}; missing=model learns from "
            "what is there, missing=impute fills them in"
        )
    if column.kind == "numeric":
        if not raw.numeric:
            odd = next((text for text in raw.values[~missing] if not is_number(text)), "texts")
            raise UserError(f"{name}: column {column.name!r}: expected numbers, got {odd!r}")
        fill = 0.0 if column.fill is None else float(column.fill)
        values = np.where(missing, fill, raw.values)
        if not np.isfinite(values).all():
            odd = values[~np.isfinite(values)][0]
            raise UserError(f"{name}: column {column.name!r}: expected finite numbers, got {odd}")
        with np.errstate(over="ignore"):
            out[:, 0] = (values - column.mean) / column.scale
        return
    codes = {category: code for code, category in enumerate(column.categories)}
    found = np.zeros(len(raw), np.int64)
    for row, text in enumerate(texts(raw)):
        value = (column.categories[0] if gaps else column.fill) if missing[row] else text
        code = codes.get(value) if isinstance(value, str) else None
        if code is None:
            known = ", ".join(column.categories[:20])
            where = f" in row {numbers[row] + 1}" if len(raw) > 1 else ""
            raise UserError(
                f"{name}: column {column.name!r}: expected one of {known}, got {value!r}{where}"
            )
        found[row] = code
    if column.kind == "binary":
        out[:, 0] = found
    else:
        out[np.arange(len(raw)), found] = 1.0

"""What the values of a table mean: its columns, kept with the model. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

__all__ = [
    "Column",
    "columns_from_json",
    "columns_to_json",
    "condition_in_words",
    "encoded_slices",
    "encoded_width",
    "is_constant",
]


@dataclass(frozen=True)
class Column:
    """One column of a table, and how its values become numbers.

    - ``numeric``: (value - mean) / scale, one number. Mean and scale (standard deviation) are
      those of the training split.
    - ``binary``: 0 for ``categories[0]``, 1 for ``categories[1]``, one number.
    - ``categorical``: one-hot, one number per category, in the order of ``categories``.

    Args:
        name: of the column.
        kind: as above.
        categories: the values as text, for ``binary`` (two) and ``categorical`` columns.
        mean: of a numeric column.
        scale: of a numeric column, positive.
        fill: what stands in for a missing value where such are imputed: the mean, or the most
            frequent category, of the training split. Not given where none may be missing.

    Examples:
        >>> Column("age", "numeric", mean=40.0, scale=12.5).width
        1
        >>> Column("colour", "categorical", ("blue", "green", "red")).width
        3
    """

    name: str
    kind: Literal["numeric", "binary", "categorical"]
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    fill: float | str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("numeric", "binary", "categorical"):
            raise ValueError(
                f"kind of column {self.name!r}: expected numeric, binary or categorical, got "
                f"{self.kind!r}"
            )
        expected = {"numeric": not self.categories, "binary": len(self.categories) == 2}
        if not expected.get(self.kind, len(self.categories) >= 2):
            raise ValueError(
                f"categories of {self.kind} column {self.name!r}: expected none for numeric, two "
                f"for binary, two or more for categorical, got {len(self.categories)}"
            )
        if len(set(self.categories)) < len(self.categories):
            raise ValueError(f"categories of column {self.name!r}: expected different ones")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale of column {self.name!r}: expected > 0, got {self.scale}")
        if not math.isfinite(self.mean):
            raise ValueError(f"mean of column {self.name!r}: expected finite, got {self.mean}")
        if self.fill is not None:
            fits = not isinstance(self.fill, str)
            fits = fits if self.kind == "numeric" else self.fill in self.categories
            if not fits:
                raise ValueError(
                    f"fill of column {self.name!r}: got {self.fill!r}, none of its own"
                )

    @property
    def width(self) -> int:
        """How many numbers it becomes."""
        return len(self.categories) if self.kind == "categorical" else 1


def is_constant(mean: Any, scale: Any) -> Any:
    """Whether values of this mean and deviation differ by no more than float64's rounding.

    Arrays give an array. The bound is relative: numbers of 1e-15 may differ too.

    Examples:
        >>> is_constant(1e6, 1.0), is_constant(-2.0, 1e-14), is_constant(1e-15, 1e-16)
        (False, True, False)
    """
    return scale <= 1e-12 * abs(mean)


def encoded_width(columns: Sequence[Column]) -> int:
    """P, the numbers in one encoded row."""
    return sum(column.width for column in columns)


def encoded_slices(columns: Sequence[Column]) -> list[slice]:
    """Where each column lies in an encoded row (P,).

    Examples:
        >>> table = [Column("age", "numeric"), Column("colour", "categorical", ("a", "b", "c"))]
        >>> encoded_slices(table)
        [slice(0, 1, None), slice(1, 4, None)]
    """
    found, start = [], 0
    for column in columns:
        found.append(slice(start, start + column.width))
        start += column.width
    return found


def condition_in_words(columns: Sequence[Column]) -> str:
    """What something is conditioned on, for people.

    Examples:
        >>> condition_in_words([Column("label", "categorical", ("cat", "dog"))])
        'label (2 classes)'
        >>> condition_in_words([Column("age", "numeric"), Column("sex", "binary", ("f", "m"))])
        'age, sex'
    """
    if len(columns) == 1 and columns[0].kind != "numeric":
        return f"{columns[0].name} ({len(columns[0].categories)} classes)"
    more = f" and {len(columns) - 8} more" if len(columns) > 8 else ""
    return ", ".join(column.name for column in columns[:8]) + more


def columns_to_json(columns: Sequence[Column] | None) -> list[dict[str, Any]] | None:
    """Plain values, for the header of a model's file."""
    return None if columns is None else [asdict(column) for column in columns]


def columns_from_json(fields: Any) -> tuple[Column, ...] | None:
    """The inverse of :func:`columns_to_json`.

    Raises:
        ValidationError: pydantic's, where the fields are not those of columns.
        ValueError: there is no column, or two have one name.
    """
    found = TypeAdapter(tuple[Column, ...] | None).validate_python(fields)
    if found is not None and not 0 < len({column.name for column in found}) == len(found):
        raise ValueError(f"columns: expected one or more of different names, got {len(found)}")
    return found

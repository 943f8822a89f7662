"""A data set: splits of numbers, what is known about them, and what binarization does to them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from flowvae.data.columns import Column
from flowvae.data.rows import FileRows
from flowvae.errors import UserError

__all__ = ["Binarization", "Dataset", "Origin", "Split", "Statistics"]

Binarization = Literal["none", "dynamic", "static", "threshold"]

_PART_VALUES = 2**20  # numbers looked at together where a whole split is passed over


@dataclass(frozen=True)
class Statistics:
    """What the numbers of a data set are, as the model sees them.

    Args:
        low: the smallest.
        high: the largest.
        integer: all are whole.
        binary: all are 0 or 1.
        eight_bit: all are k/255 with k = 0 … 255.
        missing: some are missing, NaN; what is said above is of the others.
    """

    low: float
    high: float
    integer: bool
    binary: bool
    eight_bit: bool
    missing: bool = False

    def join(self, other: Statistics) -> Statistics:
        """Of both together."""
        return Statistics(
            min(self.low, other.low),
            max(self.high, other.high),
            self.integer and other.integer,
            self.binary and other.binary,
            self.eight_bit and other.eight_bit,
            self.missing or other.missing,
        )


@dataclass(frozen=True)
class Origin:
    """Which data of its source a split holds, so that what belongs to a datum goes with it.

    Args:
        part: of the source: train, validation or test where it has such parts, else all.
        count: data in that part.
        rows: which of them these are, (N,), in the order of the split; all, in order, if none.
        block_rows: rows in a block, as a file of this part is cut, see :mod:`flowvae.data.rows`.
    """

    part: str
    count: int
    rows: Tensor | None = None
    block_rows: int = 1


@dataclass(frozen=True)
class Split:
    """One split: data (N, P), uint8 with 255 for 1, or float32; labels (N,).

    Args:
        data: a tensor (N, P), or rows that are read from their file when asked for.
        labels: one number per datum, if there are any.
        condition: what each datum is conditioned on, encoded, (N, C); NaN where it is not known.
        origin: where the data comes from, if it was read from a source.
    """

    data: Tensor | FileRows
    labels: Tensor | None = None
    origin: Origin | None = None
    condition: Tensor | None = None

    def __len__(self) -> int:
        return len(self.data)

    def to(self, device: torch.device) -> Split:
        condition = None if self.condition is None else self.condition.to(device)
        return replace(self, data=self.data.to(device), condition=condition)

    def values(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The chosen data as float32, (n, P)."""
        # index_select copies whole rows; indexing goes value by value.
        if isinstance(index, Tensor) and isinstance(self.data, Tensor):
            chosen = self.data.index_select(0, index)
        else:
            chosen = self.data[index]
        return chosen.float().div_(255) if chosen.dtype == torch.uint8 else chosen

    def rows(self, index: Tensor | slice = slice(None)) -> Tensor:
        """What a model is given: the values, (n, P), and beside them the condition, (n, P + C)."""
        values = self.values(index)
        if self.condition is None:
            return values
        return torch.cat([values, self.condition[index].to(values)], 1)

    def at_most(self, count: int) -> Split:
        """The split, or so many of its data, evenly over it: it may be sorted."""
        if len(self) <= count:
            return self
        chosen = torch.linspace(0, len(self) - 1, count, dtype=torch.float64).round().long()
        labels = None if self.labels is None else self.labels[chosen]
        condition = None if self.condition is None else self.condition[chosen]
        return Split(self.values(chosen), labels, condition=condition)

    def is_binary(self) -> bool:
        """Whether all values are 0 or 1."""
        return self._is_binary

    @cached_property
    def _is_binary(self) -> bool:
        one = 255 if self.data.dtype == torch.uint8 else 1
        return all(
            bool(((part == 0) | (part == one) | part.isnan()).all()) for part in self._parts()
        )

    @property
    def has_missing(self) -> bool:
        """Whether a value is missing, NaN."""
        return self.data.dtype != torch.uint8 and self.statistics.missing

    @cached_property
    def statistics(self) -> Statistics:
        """One pass over the split, a part at a time; kept."""
        found = Statistics(math.inf, -math.inf, True, True, True)
        for part in self._parts():
            found = found.join(_statistics(part, found))
        return found

    def mean(self) -> Tensor:
        """The mean of each value over the data that have it, (P,), float32."""
        total = torch.zeros(2, self.data.shape[1], dtype=torch.float64)
        for part in self._parts():
            values = Split(part).values()
            total[0] += values.nansum(0, dtype=torch.float64).cpu()
            total[1] += values.isfinite().sum(0).cpu()
        return (total[0] / total[1].clamp(min=1)).float()

    def _parts(self) -> Iterator[Tensor]:
        """The stored numbers, not many at a time."""
        step = max(1, _PART_VALUES // max(1, self.data.shape[1]))
        for start in range(0, len(self), step):
            yield self.data[start : start + step]


def _statistics(part: Tensor, so_far: Statistics) -> Statistics:
    """Of one part, without what is missing; what is false already is not looked at again."""
    missing = False
    if part.dtype != torch.uint8:
        gaps = part.isnan()
        missing = bool(gaps.any())
        if missing:
            part = part[~gaps]
        if not part.numel():
            return replace(so_far, missing=True)
    low, high = (value.item() for value in torch.aminmax(part))
    if part.dtype == torch.uint8:
        binary = so_far.binary and bool(((part == 0) | (part == 255)).all())
        return Statistics(low / 255, high / 255, binary, binary, True)
    integer = so_far.integer and bool((part == part.round()).all())
    unit = low >= 0 and high <= 1
    eight_bit = so_far.eight_bit and unit
    eight_bit = eight_bit and bool((part.mul(255).round_().div_(255) == part).all())
    return Statistics(low, high, integer, integer and unit, eight_bit, missing)


@dataclass(frozen=True)
class Dataset:
    """Training and test data of one shape, and validation data where some were set aside.

    Args:
        name: what ``--data`` names, recorded with the run.
        train: what is learned from.
        test: what is held out, for the final figures.
        data_shape: shape of one datum, such as (28, 28).
        binarization: the policy that was applied, see :func:`flowvae.data.binarize`.
        validation: held out for decisions during training, such as when to stop.
        columns: of a table, what the values mean; else none.
        condition: what the numbers of a condition mean, where the data is conditioned on something.
        label_names: what the labels 0, 1, … stand for, where they have names.
        record: how the splits were made: seed, fractions, counts, hashes of the row numbers.
        notes: what a person should know about the data, a line each.
    """

    name: str
    train: Split
    test: Split
    data_shape: tuple[int, ...]
    binarization: Binarization = "none"
    validation: Split | None = None
    columns: tuple[Column, ...] | None = None
    condition: tuple[Column, ...] | None = None
    label_names: tuple[str, ...] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def from_arrays(
        cls,
        train: np.ndarray,
        test: np.ndarray,
        train_labels: np.ndarray | None = None,
        test_labels: np.ndarray | None = None,
        name: str = "arrays",
        validation: np.ndarray | None = None,
        validation_labels: np.ndarray | None = None,
        *,
        missing: bool = False,
    ) -> Dataset:
        """Check and adopt arrays (N, ...): uint8 for 8-bit images, or any finite numbers.

        Which numbers are allowed is for the likelihood to say; see :attr:`statistics`. With
        ``missing`` NaN is a value that is missing.

        Raises:
            UserError: wrong shape or type, NaN or infinity.

        Examples:
            >>> import numpy as np
            >>> Dataset.from_arrays(np.zeros((6, 8, 5)), np.zeros((2, 8, 5))).data_shape
            (8, 5)
        """
        parts = {"test": test, **({} if validation is None else {"validation": validation})}
        for part, array in parts.items():
            if train.shape[1:] != array.shape[1:]:
                raise UserError(
                    f"{name}: expected train and {part} data of one shape, "
                    f"got {train.shape[1:]} and {array.shape[1:]}"
                )
        return cls(
            name,
            adopt(train, train_labels, f"{name}: train", missing=missing),
            adopt(test, test_labels, f"{name}: test", missing=missing),
            tuple(train.shape[1:]),
            validation=None
            if validation is None
            else adopt(validation, validation_labels, f"{name}: validation", missing=missing),
        )

    @property
    def splits(self) -> dict[str, Split]:
        """The splits there are, by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}

    @property
    def pseudo_likelihood(self) -> bool:
        """Whether log p(x|z) under a Bernoulli likelihood is a pseudo-likelihood: grey pixels."""
        if self.binarization != "none" or self.columns is not None:
            return False
        return not all(split.is_binary() for split in self.splits.values())

    @cached_property
    def statistics(self) -> Statistics:
        """What the numbers of all splits are, as the model sees them."""
        if self.binarization != "none":
            missing = any(split.has_missing for split in self.splits.values())
            return Statistics(0.0, 1.0, True, True, True, missing)
        first, *rest = (split.statistics for split in self.splits.values())
        for each in rest:
            first = first.join(each)
        return first

    def describe(self) -> dict[str, Any]:
        """Splits and how they were made, in plain values: recorded with a run."""
        counts = {name: len(split) for name, split in self.splits.items()}
        about: dict[str, Any] = {"name": self.name, "shape": list(self.data_shape), **counts}
        if self.label_names is not None:
            about["label_names"] = list(self.label_names)
        about["splits"] = dict(self.record)
        about["notes"] = list(self.notes)
        return about


def adopt(
    array: np.ndarray | FileRows,
    labels: np.ndarray | None,
    name: str,
    *,
    rows: np.ndarray | None = None,
    owned: bool = False,
    wide: bool = False,
    missing: bool = False,
) -> Split:
    """A split of checked data and labels, uint8 or float32.

    Args:
        array: (N, ...).
        labels: (N,), of those of the split alone.
        name: for messages.
        rows: which of its rows; all if not given.
        owned: an array that fits as it is need not be copied.
        wide: keep real numbers in float64, because they are yet to be standardised.
        missing: NaN is a value that is missing, and not refused.
    """
    count = len(array) if rows is None else len(rows)
    kept = None if labels is None else torch.from_numpy(_checked_labels(labels, count, name))
    if isinstance(array, FileRows):
        return Split(array, kept)
    if array.ndim < 2 or array.size == 0:
        raise UserError(f"{name}: expected an array (N, ...) that is not empty, got {array.shape}")
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name}: expected numbers, got dtype {array.dtype}")
    real = np.dtype(np.float64 if wide else np.float32)
    dtype = array.dtype if array.dtype == np.uint8 else real
    if owned and rows is None and array.dtype == dtype and array.flags.carray:
        flat = array.reshape(count, -1)
    else:
        flat = _gathered(array, rows, dtype)
    if missing and dtype != np.uint8:
        _check_gaps(flat, name)
    # NaN is both the smallest and the largest.
    elif dtype != np.uint8 and not np.isfinite([flat.min(), flat.max()]).all():
        raise not_finite(name)
    return Split(torch.from_numpy(flat), kept)


def not_finite(name: str) -> UserError:
    """What to say of data with NaN or infinity where none is allowed."""
    return UserError(
        f"{name}: expected finite numbers, got NaN or infinity; with missing=model NaN is a value "
        "that is missing"
    )


def _check_gaps(flat: np.ndarray, name: str) -> None:
    """See that what is there is finite, and that something is."""
    if np.isinf(flat).any():
        raise UserError(f"{name}: expected finite numbers, or NaN where one is missing, got inf")
    if np.isnan(flat).all():
        raise UserError(f"{name}: expected at least one value, got NaN alone")


def _gathered(array: np.ndarray, rows: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    """The chosen rows as (N, P), a part at a time: nothing is held twice in its old type."""
    count, P = len(array) if rows is None else len(rows), math.prod(array.shape[1:])
    flat = np.empty((count, P), dtype)
    step = max(1, _PART_VALUES // P)
    for start in range(0, count, step):
        place = slice(start, start + step)
        part = array[place if rows is None else rows[place]]
        with np.errstate(over="ignore"):  # the caller looks for infinity
            flat[place] = part.reshape(len(part), P)
    return flat


def _checked_labels(labels: np.ndarray, count: int, name: str) -> np.ndarray:
    """Labels as int64, or float64 where they are quantities."""
    if labels.shape != (count,) or labels.dtype.kind not in "iuf":
        raise UserError(
            f"{name} labels: expected {count} integers (or, for quantities, "
            f"real numbers), got {labels.dtype} {labels.shape}"
        )
    if labels.dtype.kind == "u" and labels.max() >= 2**63:
        raise UserError(f"{name} labels: expected integers below 2^63, got {labels.max()}")
    return labels.astype(np.float64 if labels.dtype.kind == "f" else np.int64)

"""What a reader found, before it is cut into splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from flowvae.data.dataset import Dataset, Origin, Split, adopt, not_finite
from flowvae.data.rows import ArrayFile, FileRows, block_rows
from flowvae.errors import UserError

__all__ = ["SourceArrays", "cut", "split_dataset"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SourceArrays:
    """Arrays by split name, or all in one.

    Args:
        name: of the data, as recorded.
        parts: arrays (N, ...) as ``train``, ``test`` and perhaps ``validation``, or as ``all``.
        labels: likewise (N,), where there are any.
        label_names: what the labels 0, 1, … stand for.
        notes: lines for the user.
        conditions: by split name, (N, C), what the data is conditioned on.
    """

    name: str
    parts: Mapping[str, np.ndarray | ArrayFile]
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    conditions: Mapping[str, np.ndarray] = field(default_factory=dict)


def cut(
    counts: Mapping[str, int], test_fraction: float, validation_fraction: float, seed: int
) -> tuple[dict[str, tuple[str, np.ndarray | None]], dict[str, Any]]:
    """Which units of which part make up each split, and the record of it.

    Args:
        counts: units in each part: the splits the data comes with, or ``all``.
        test_fraction: of ``all``, held out for the test.
        validation_fraction: of what is left for training, held out for validation, unless the
            data comes with a validation split; none if 0.
        seed: of the order, one permutation of the units from NumPy's default generator.

    Returns:
        Split name -> (part, unit numbers; none for a whole part), and the record.
    """
    whole = next((part for part in ("all", "train") if part in counts), None)
    if whole is None:
        raise UserError(f"data: expected a training split, got {', '.join(counts)}")
    chosen: dict[str, tuple[str, np.ndarray | None]] = {
        name: (name, None) for name in SPLITS if name in counts
    }
    order = np.random.default_rng(seed).permutation(counts[whole])
    fractions = {} if "test" in counts else {"test": test_fraction}
    if "validation" not in counts and validation_fraction > 0:
        fractions["validation"] = validation_fraction
    record: dict[str, Any] = {"seed": seed, **{f"{k}_fraction": v for k, v in fractions.items()}}
    if counts[whole] <= len(fractions):
        raise UserError(
            f"data: expected at least {len(fractions) + 1} data to split into train and "
            f"{' and '.join(fractions)}, got {counts[whole]}"
        )
    for number, (name, fraction) in enumerate(fractions.items()):
        others = len(fractions) - number  # each of which gets one at least
        held_out = min(max(1, round(fraction * len(order))), len(order) - others)
        chosen[name], order = (whole, order[:held_out]), order[held_out:]
    if fractions:
        chosen["train"] = (whole, order)
        for name in (*fractions, "train"):
            numbers = np.asarray(chosen[name][1], dtype="<i8")
            record[name] = {
                "count": len(numbers),
                "rows_sha256": hashlib.sha256(numbers.tobytes()).hexdigest(),
            }
    return chosen, record if fractions else {"given": list(chosen)}


def split_dataset(
    found: SourceArrays,
    test_fraction: float,
    validation_fraction: float,
    seed: int,
    wide: bool = False,
    missing: bool = False,
) -> Dataset:
    """Cut what was found into checked splits.

    They are ``wide`` if they are standardised next; NaN is allowed where ``missing`` values are.
    """
    shapes = {name: _row_shape(found, name) for name in found.parts}
    first = next(iter(shapes.values()))
    for name, shape in shapes.items():
        if shape != first:
            raise UserError(
                f"{found.name}: expected data of one shape, got {first} in "
                f"{next(iter(shapes))} and {shape} in {name}"
            )
    for name, labels in found.labels.items():
        if labels.shape != (len(found.parts[name]),):
            raise UserError(
                f"{found.name}: expected {len(found.parts[name])} labels, one a datum, "
                f"got shape {labels.shape}"
            )
    counts = {name: _units(part) for name, part in found.parts.items()}
    chosen, record = cut(counts, test_fraction, validation_fraction, seed)
    if any(isinstance(part, ArrayFile) for part in found.parts.values()) and "given" not in record:
        record["unit"] = "blocks of neighbouring rows, for data larger than memory_budget"
    splits: dict[str, Split] = {}
    for name, (part, numbers) in chosen.items():
        splits[name] = _take(found, part, numbers, f"{found.name}: {name}", wide, missing)
    return Dataset(
        found.name,
        splits["train"],
        splits["test"],
        first,
        validation=splits.get("validation"),
        label_names=found.label_names,
        record=record,
        notes=found.notes,
    )


def _row_shape(found: SourceArrays, name: str) -> tuple[int, ...]:
    array = found.parts[name]
    if len(array.shape) < 2 or 0 in array.shape:
        raise UserError(
            f"{found.name}: expected an array (N, ...) that is not empty, got {array.shape}"
        )
    return tuple(array.shape[1:])


def _units(part: np.ndarray | ArrayFile) -> int:
    return part.num_blocks if isinstance(part, ArrayFile) else len(part)


def _take(
    found: SourceArrays,
    part: str,
    numbers: np.ndarray | None,
    name: str,
    wide: bool,
    missing: bool,
) -> Split:
    array, labels = found.parts[part], found.labels.get(part)
    given = found.conditions.get(part)
    if isinstance(array, np.ndarray):
        chosen = labels if labels is None or numbers is None else labels[numbers]
        split = adopt(array, chosen, name, rows=numbers, owned=True, wide=wide, missing=missing)
        rows = None if numbers is None else torch.from_numpy(numbers)
        blocks = block_rows(len(array), array[0].nbytes)
        condition = None if given is None else _of_rows(given, numbers)
        return replace(split, origin=Origin(part, len(array), rows, blocks), condition=condition)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name}: expected numbers, got dtype {array.dtype}")
    blocks = np.arange(array.num_blocks) if numbers is None else np.sort(numbers)
    rows = FileRows(array, blocks, wide=wide)
    split = adopt(rows, None if labels is None else labels[rows.rows()], name)
    if array.dtype.kind == "f" and not wide:  # a pass over the file, but NaN would end the training
        seen = split.statistics
        if not np.isfinite([seen.low, seen.high]).all() or (seen.missing and not missing):
            raise not_finite(name)
    if given is not None:
        split = replace(split, condition=_of_rows(given, rows.rows()))
    return split


def _of_rows(given: np.ndarray, rows: np.ndarray | None) -> torch.Tensor:
    """What some rows are conditioned on, (n, C); all if no rows are named."""
    return torch.from_numpy(given if rows is None else given[rows])

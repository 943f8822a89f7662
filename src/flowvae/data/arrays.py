"""NumPy files: in memory, or read from disk row by row where they are too large for it."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Collection, Mapping, Sequence
from lzma import LZMAError
from pathlib import Path
from typing import IO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from flowvae.data.conditions import LABELS
from flowvae.data.rows import ArrayFile, checked_bytes, cut_short, gib, read_array
from flowvae.data.splits import SPLITS, SourceArrays
from flowvae.errors import UserError

__all__ = ["numpy_file"]

# RuntimeError is an archive's word for encrypted, NotImplementedError for a compression unknown.
_UNREADABLE = (OSError, ValueError, EOFError, BadZipFile, struct.error, zlib.error, LZMAError)
_UNREADABLE += (RuntimeError,)
_HINT = "raise memory_budget, or save it with numpy.save"


def numpy_file(
    path: Path,
    budget: int,
    label_column: str | None = None,
    condition: Sequence[str] = (),
    *,
    least: int = 2,
) -> SourceArrays:
    """A ``.npy`` (N, ...), or a ``.npz`` with x, or x_train and x_test; see ``load_dataset``.

    N is at ``least`` so much, where it is to be cut into training and test data.
    """
    name = str(path.resolve())
    try:
        if path.suffix == ".npz":
            return _archive(name, path, budget, label_column, condition, least)
        with path.open("rb") as file:
            x = _open_npy(file, path, str(path), (0, path.stat().st_size), budget)
    except UserError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"data: {path} is no readable NumPy file: {reason}") from None
    _check_count(x, least)
    return SourceArrays(name, {"all": x}) if label_column is None else _label(name, x, label_column)


def _archive(
    name: str,
    path: Path,
    budget: int,
    label_column: str | None,
    condition: Sequence[str],
    least: int,
) -> SourceArrays:
    """Of a ``.npz`` only what is wanted is read."""
    with ZipFile(path) as archive, path.open("rb") as file:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        parts, labels = _wanted(path, members, label_column)

        def read(key: str) -> np.ndarray | ArrayFile:
            info, where = members[key], f"{path}: {key}"
            if info.file_size <= budget:
                with archive.open(info) as member:
                    return _open_npy(member, path, where, (0, info.file_size), budget)
            if info.compress_type != ZIP_STORED:
                raise UserError(
                    f"data: {key} in {path} has {gib(info.file_size)}, more than memory_budget, "
                    f"and is compressed; {_HINT}"
                )
            place = _stored_at(file, info), info.file_size
            return _open_npy(file, path, where, place, budget)

        arrays = {split: read(key) for split, key in parts.items()}
        if "all" in arrays:
            _check_count(arrays["all"], least)

        def in_memory(key: str, what: str) -> np.ndarray:
            values = read(key)
            if isinstance(values, ArrayFile):
                raise UserError(f"data: {what} in {path} are larger than memory_budget; raise it")
            return values

        kept = {split: in_memory(key, "labels") for split, key in labels.items()}
        given: dict[str, np.ndarray] = {}
        for wanted in condition if condition != (LABELS,) else ():
            for split in parts:
                key = wanted if split == "all" else f"{wanted}_{split}"
                if key not in members:
                    raise UserError(f"condition: no array {key!r} in {path}, got {_some(members)}")
                values = _checked_condition(in_memory(key, "conditions"), arrays[split], key)
                before = [given[split]] if split in given else []
                given[split] = np.concatenate([*before, values], 1)
    return SourceArrays(name, arrays, kept, conditions=given)


def _checked_condition(values: np.ndarray, x: np.ndarray | ArrayFile, key: str) -> np.ndarray:
    """As (N, C), float64."""
    shape, kind = values.shape, values.dtype.kind
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) != len(x) or kind not in "fiub":
        raise UserError(
            f"condition: {key}: expected numbers of shape ({len(x)},) or ({len(x)}, C), got "
            f"{values.dtype} {shape}"
        )
    if not np.isfinite(values).all():
        raise UserError(f"condition: {key}: expected finite numbers, got NaN or infinity")
    return values.astype(np.float64)


def _wanted(
    path: Path, names: Collection[str], label_column: str | None
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Which arrays are the data and which the labels, by split."""
    label = label_column or "y"
    if "x_train" in names and "x_test" in names:
        parts = {split: f"x_{split}" for split in SPLITS if f"x_{split}" in names}
        labels = {split: f"{label}_{split}" for split in parts if f"{label}_{split}" in names}
    elif "x" in names:
        parts = {"all": "x"}
        labels = {"all": label} if label in names and label != "x" else {}
    else:
        raise UserError(
            f"data: expected arrays x_train and x_test, or x, in {path}, got {_some(names)}"
        )
    if label_column is not None and not labels:
        raise UserError(f"label_column: no array {label_column!r} in {path}, got {_some(names)}")
    return parts, labels


def _some(names: Collection[str]) -> str:
    shown = ", ".join(names) or "none"
    return shown if len(shown) < 300 else f"{shown[:300]} …"


def _check_count(x: np.ndarray | ArrayFile, least: int) -> None:
    if len(x.shape) >= 2 and len(x) < least:
        raise UserError(f"data: expected an array (N, ...) with N at least {least}, got {x.shape}")


def _label(name: str, x: np.ndarray | ArrayFile, column: str) -> SourceArrays:
    """Column ``column`` (a number, from the end if negative) of a plain (N, P) array as labels."""
    if not isinstance(x, np.ndarray) or x.ndim != 2:
        raise UserError(f"label_column: expected an array (N, P) in memory, got {x.shape}")
    try:
        index = range(x.shape[1])[int(column)]
    except (ValueError, IndexError):
        raise UserError(
            f"label_column: expected the number of a column of {x.shape[1]} in {name}, "
            f"got {column!r}"
        ) from None
    labels = whole_or_real(x[:, index])
    return SourceArrays(name, {"all": np.delete(x, index, 1)}, {"all": labels})


def whole_or_real(values: np.ndarray) -> np.ndarray:
    """Labels: numbers that are all whole, and exact in their type, as int64."""
    if values.dtype.kind == "f":
        # NaN and infinity are not below.
        whole = (abs(values) < 2**53) & (values == np.round(values))
        return values.astype(np.int64) if whole.all() else values
    return values.astype(np.int64) if values.dtype.kind == "b" else values


def _stored_at(file: IO[bytes], info: ZipInfo) -> int:
    """Where an uncompressed member's bytes begin: after its own header, not the archive's list."""
    if info.flag_bits & 1:
        raise RuntimeError(f"{info.filename} is encrypted")
    file.seek(info.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name_length + extra_length


def _open_npy(
    file: IO[bytes], path: Path, where: str, place: tuple[int, int], budget: int
) -> np.ndarray | ArrayFile:
    """The array at a place, its start and size: read if that is in the budget, or left there.

    What the header says is compared with the size before memory is taken.
    """
    start, size = place
    if start:
        file.seek(start)
    shape, fortran_order, dtype = _header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    nbytes = checked_bytes(shape, dtype, where)
    left = size - (file.tell() - start)
    if nbytes > left:
        raise cut_short(f"data: {where}", nbytes, shape, left)
    column_order = fortran_order and len(shape) > 1
    if size <= budget:
        order = shape[::-1] if column_order else shape
        found = read_array(file, order, dtype, f"data: {where}")
        return found.T if column_order else found
    if column_order:
        raise UserError(
            f"data: {where} has {gib(size)}, more than memory_budget, and is stored column by "
            f"column; {_HINT} in C order"
        )
    array = ArrayFile(path.resolve(), file.tell(), shape, dtype)
    there = path.stat().st_size - array.offset
    if array.nbytes > there:
        raise cut_short(f"data: {where}", nbytes, shape, there)
    return array


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether column by column, and type.

    Raises:
        ValueError: whatever NumPy and Python's parser beneath it say of a broken one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers of Python 2 are read with a warning
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            return read(file)
        except Exception as error:  # noqa: BLE001
            reason = str(error).split(": <", 1)[0]  # without the addresses of Python's objects
            raise ValueError(f"its header is broken: {reason:.200}") from None

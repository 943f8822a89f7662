"""NumPy files: in memory, or read from disk row by row where they are too large for it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import IO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from flowvae.data.found import SPLITS, Found
from flowvae.data.rows import ArrayFile
from flowvae.errors import UserError

__all__ = ["numpy_file"]

_UNREADABLE = (OSError, ValueError, EOFError, BadZipFile, KeyError, struct.error, zlib.error)
_HINT = "raise memory_budget, or save it with numpy.save"


def numpy_file(path: Path, budget: int, label_column: str | None = None) -> Found:
    """A ``.npy`` (N, ...), or a ``.npz`` with x, or x_train and x_test; see ``load_dataset``."""
    name = str(path.resolve())
    try:
        if path.suffix == ".npz":
            arrays = _open_npz(path, budget)
        else:
            with path.open("rb") as file:
                arrays = {"x": _open_npy(file, path, 0, path.stat().st_size, budget)}
    except UserError:
        raise
    except _UNREADABLE as error:
        raise UserError(f"data: {path} is no readable NumPy file: {error}") from None
    if "x_train" in arrays and "x_test" in arrays:
        parts = {split: arrays[f"x_{split}"] for split in SPLITS if f"x_{split}" in arrays}
        label = label_column or "y"
        labels = {
            split: arrays[f"{label}_{split}"] for split in parts if f"{label}_{split}" in arrays
        }
    elif "x" in arrays:
        parts, label = {"all": arrays["x"]}, label_column or "y"
        labels = {"all": arrays[label]} if label in arrays and label != "x" else {}
        if label_column is not None and not labels and path.suffix == ".npy":
            return _label_from_array(name, arrays["x"], label_column)
    else:
        raise UserError(
            f"data: expected arrays x_train and x_test, or x, in {path}, got {', '.join(arrays)}"
        )
    if label_column is not None and not labels:
        raise UserError(
            f"label_column: no array {label_column!r} in {path}, got {', '.join(arrays)}"
        )
    if len(parts) == 1 and len(next(iter(parts.values())).shape) >= 2 and len(arrays["x"]) < 2:
        raise UserError(
            f"data: expected an array (N, ...) with N at least 2, got {arrays['x'].shape}"
        )
    kept: dict[str, np.ndarray] = {}
    for split, values in labels.items():
        if isinstance(values, ArrayFile):
            raise UserError(f"data: labels in {path} are larger than memory_budget; raise it")
        kept[split] = values
    return Found(name, parts, kept)


def _label_from_array(name: str, x: np.ndarray | ArrayFile, column: str) -> Found:
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
    labels = x[:, index]
    whole = labels.dtype.kind in "iu" or (np.isfinite(labels) & (labels == np.round(labels))).all()
    labels = labels.astype(np.int64) if whole else labels
    return Found(name, {"all": np.delete(x, index, 1)}, {"all": labels})


def _open_npz(path: Path, budget: int) -> dict[str, np.ndarray | ArrayFile]:
    found: dict[str, np.ndarray | ArrayFile] = {}
    with ZipFile(path) as archive, path.open("rb") as file:
        for info in archive.infolist():
            key = info.filename.removesuffix(".npy")
            if info.file_size <= budget:
                with archive.open(info) as member:
                    found[key] = np.lib.format.read_array(member, allow_pickle=False)
            elif info.compress_type != ZIP_STORED:
                raise UserError(
                    f"data: {key} in {path} has {_gib(info.file_size)}, more than memory_budget, "
                    f"and is compressed; {_HINT}"
                )
            else:
                start = _stored_at(file, info)
                found[key] = _open_npy(file, path, start, info.file_size, budget)
    return found


def _stored_at(file: IO[bytes], info: ZipInfo) -> int:
    """Where an uncompressed member's bytes begin: after its own header, not the archive's list."""
    file.seek(info.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name_length + extra_length


def _open_npy(
    file: IO[bytes], path: Path, start: int, size: int, budget: int
) -> np.ndarray | ArrayFile:
    """The array at ``start``: read whole if its ``size`` is in the budget, else left in place."""
    file.seek(start)
    if size <= budget:
        return np.lib.format.read_array(file, allow_pickle=False)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if fortran_order and len(shape) > 1:
        raise UserError(
            f"data: {path} has {_gib(size)}, more than memory_budget, and is stored column by "
            f"column; {_HINT} in C order"
        )
    array = ArrayFile(path.resolve(), file.tell(), shape, dtype)
    if array.offset + array.nbytes > start + size:
        raise UserError(
            f"data: {path} is cut short: expected {array.nbytes} bytes for shape {shape}, "
            f"got {start + size - array.offset}"
        )
    return array


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"

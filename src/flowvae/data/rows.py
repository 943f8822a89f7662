"""Rows of an array that stay in their file: for data larger than memory.

The file is cut into blocks of neighbouring rows, a quarter of a MiB each. A split is a set of
blocks; an epoch visits the blocks in random order, many at a time, and shuffles their rows
together. So the disk is read in long pieces, memory stays bounded, and neighbours in the file
(which may be near-duplicates) never lie in two splits. Blocks are read into buffers rather than
mapped: pages of a memory map that were touched count as the process's own memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from gzip import GzipFile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from flowvae.errors import UserError

__all__ = [
    "ArrayFile",
    "FileRows",
    "block_rows",
    "block_uniforms",
    "checked_bytes",
    "cut_short",
    "gib",
    "read_array",
]

Stream = IO[bytes] | GzipFile

_BLOCK_BYTES = 2**18
_POOL_BYTES = 2**26  # rows shuffled together
_LEAST_BLOCKS = 1000  # where the file has so many rows
_MOST_DIMENSIONS = 32


def checked_bytes(shape: tuple[int, ...], dtype: np.dtype, where: str) -> int:
    """What an array takes, by what a file says of it: asked before any memory is taken.

    Raises:
        UserError: no array has this shape, or the type is none of numbers.
    """
    if dtype.kind not in "fiub" or not dtype.itemsize:
        raise UserError(f"{where}: expected numbers, got dtype {dtype}")
    right = all(type(n) is int and n >= 0 for n in shape) and len(shape) <= _MOST_DIMENSIONS
    if not right or math.prod(max(1, n) for n in shape) >= 2**56:
        raise UserError(
            f"{where}: expected a shape of at most {_MOST_DIMENSIONS} sizes, none negative and "
            f"together below 2^56, got {str(shape)[:80]}"
        )
    return math.prod(shape) * dtype.itemsize


def read_array(stream: Stream, shape: tuple[int, ...], dtype: np.dtype, where: str) -> np.ndarray:
    """An array in C order from an open file, into memory of its own.

    Raises:
        UserError: the file ends too early.
    """
    found = np.empty(shape, dtype)
    count = _fill(found, stream)
    if count < found.nbytes:
        raise cut_short(where, found.nbytes, shape, count)
    return found


def cut_short(where: str, expected: int, shape: tuple[int, ...], got: int) -> UserError:
    return UserError(
        f"{where} is cut short: expected {expected} bytes for shape {shape}, got {got}"
    )


def _fill(array: np.ndarray, stream: Stream) -> int:
    """Read the bytes of an array in C order; how many there were."""
    buffer = array.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(buffer):
        count = stream.readinto(buffer[done:])  # pyright: ignore[reportAttributeAccessIssue]
        if not count:
            break
        done += count
    return done


def gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def block_rows(count: int, row_bytes: int) -> int:
    """Rows in one block; fewer in a small file, so that there are many to divide."""
    return max(1, min(_BLOCK_BYTES // max(1, row_bytes), count // _LEAST_BLOCKS))


def block_uniforms(seed: int, block: int, shape: tuple[int, int]) -> np.ndarray:
    """U[0, 1), float32, that belong to a block of a file, whoever asks."""
    return np.random.default_rng([seed, block]).random(shape, np.float32)


@dataclass(frozen=True)
class ArrayFile:
    """An array (N, ...) stored row by row in a file.

    Args:
        path: the file.
        offset: where the first row begins, in bytes.
        shape: (N, ...).
        dtype: of the numbers in the file.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def row_values(self) -> int:
        """P, the numbers in one row."""
        return math.prod(self.row_shape)

    @cached_property
    def block_rows(self) -> int:
        return block_rows(len(self), self.row_values * self.dtype.itemsize)

    @property
    def num_blocks(self) -> int:
        return -(-len(self) // self.block_rows)

    def read_block(self, block: int) -> np.ndarray:
        """(rows, P), in the file's dtype."""
        start = block * self.block_rows
        return self.read(start, min(start + self.block_rows, len(self)))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start … stop - 1 as (rows, P), in the file's dtype."""
        rows = np.empty((stop - start, self.row_values), self.dtype)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset + start * self.row_values * self.dtype.itemsize)
            if _fill(rows, file) < rows.nbytes:
                raise UserError(f"data: {self.path} ends before its last row; was it changed?")
        return rows


@dataclass(frozen=True)
class FileRows:
    """Some blocks of an :class:`ArrayFile`, read when they are asked for.

    Stands in for a tensor (N, P): ``len``, ``shape``, ``dtype``, ``device``, ``to`` and ``[index]``
    with a slice or a tensor of row numbers, which gives a tensor of the rows on the device.

    Args:
        file: where the rows are.
        blocks: which of its blocks, in rising order, (n,).
        device: where rows are wanted.
        binary: give 0 or 255 (uint8) in place of pixels: 255 where x ≥ ½, or, with a ``seed``, by
            a fixed Bernoulli(x) draw.
        seed: of that draw.
        shift: subtracted from every row, (P,), float64, if given.
        scale: then divided by, (P,), float64.
        wide: give real numbers in float64: they are yet to be standardised.
    """

    file: ArrayFile
    blocks: np.ndarray
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    binary: bool = False
    seed: int | None = None
    shift: np.ndarray | None = None
    scale: np.ndarray | None = None
    wide: bool = False

    @cached_property
    def _length(self) -> int:
        rows = len(self.blocks) * self.file.block_rows
        if len(self.blocks) and self.blocks[-1] == self.file.num_blocks - 1:
            rows -= self.file.num_blocks * self.file.block_rows - len(self.file)
        return rows

    def __len__(self) -> int:
        return self._length

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.file.row_values

    @property
    def dtype(self) -> torch.dtype:
        if self.binary or (self.file.dtype == np.uint8 and self.shift is None):
            return torch.uint8
        return torch.float64 if self.wide else torch.float32

    def to(self, device: torch.device) -> FileRows:
        return replace(self, device=torch.device(device))

    def binarized(self, seed: int | None) -> FileRows:
        """By threshold, or by a fixed draw where a seed is given."""
        return replace(self, binary=True, seed=seed)

    def standardized(self, shift: np.ndarray, scale: np.ndarray) -> FileRows:
        return replace(self, shift=shift, scale=scale, wide=False)

    def rows(self) -> np.ndarray:
        """Which rows of the file these are, (N,): one number a row, so only where that fits."""
        width = self.file.block_rows
        numbers = (self.blocks[:, None] * width + np.arange(width)).ravel()
        return numbers[: len(self)]

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        if isinstance(index, slice):
            wanted = range(*index.indices(len(self)))
            if wanted.step == 1:
                return self._finish(self._run(wanted.start, max(wanted.start, wanted.stop)))
            index = torch.tensor(list(wanted), dtype=torch.int64)
        numbers = index.cpu().numpy()
        block, row = np.divmod(numbers, self.file.block_rows)
        found = np.empty((len(numbers), self.file.row_values), self._stored_dtype)
        for each in np.unique(block):
            chosen = block == each
            found[chosen] = self._block(int(each))[row[chosen]]
        return self._finish(found)

    def shuffled(
        self, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every row once, in random order, in batches; the last batch may be smaller.

        A batch is the rows, (n, P), and their numbers among these rows, (n,), both on the device.
        Blocks come in random order; the rows of as many as fit a buffer are shuffled together.
        The generator's device is where the random numbers are drawn.
        """

        def permutation(count: int) -> Tensor:
            order = torch.randperm(count, generator=generator, device=generator.device)
            return order.cpu()

        order = permutation(len(self.blocks)).numpy()
        row_bytes = self.file.row_values * self._stored_dtype.itemsize
        together = max(1, _POOL_BYTES // max(1, self.file.block_rows * row_bytes))
        left = np.empty((0, self.file.row_values), self._stored_dtype)
        left_numbers = np.empty(0, np.int64)
        for start in range(0, len(order), together):
            chosen = order[start : start + together]
            blocks = [self._block(int(each)) for each in chosen]
            firsts = zip(chosen * self.file.block_rows, blocks, strict=True)
            numbers = [np.arange(first, first + len(block)) for first, block in firsts]
            pool = np.concatenate([left, *blocks])
            pool_numbers = np.concatenate([left_numbers, *numbers])
            del blocks
            shuffle = permutation(len(pool)).numpy()
            last = start + together >= len(order)
            full = len(pool) if last else len(pool) - len(pool) % batch_size
            for first in range(0, full, batch_size):
                taken = shuffle[first : first + batch_size][: full - first]
                places = torch.from_numpy(pool_numbers[taken]).to(self.device)
                yield self._finish(pool[taken]), places
            left, left_numbers = pool[shuffle[full:]], pool_numbers[shuffle[full:]]

    @property
    def _stored_dtype(self) -> np.dtype:
        """Of rows on their way: one byte a number where that says all."""
        return np.dtype(np.uint8) if self.binary else self.file.dtype.newbyteorder("=")

    def _run(self, start: int, stop: int) -> np.ndarray:
        """Neighbouring rows of this split, block by block."""
        width = self.file.block_rows
        found = np.empty((stop - start, self.file.row_values), self._stored_dtype)
        position = start
        while position < stop:
            block, row = divmod(position, width)
            part = self._block(block)[row : row + stop - position]
            found[position - start : position - start + len(part)] = part
            position += len(part)
        return found

    def _block(self, number: int) -> np.ndarray:
        """The split's block of this number, (rows, P), binarized if that is asked for."""
        block = int(self.blocks[number])
        rows = self.file.read_block(block).astype(self.file.dtype.newbyteorder("="), copy=False)
        if not self.binary:
            return rows
        grey = _as_seen(rows)
        if self.seed is None:
            return np.where(grey >= 0.5, np.uint8(255), np.uint8(0))
        draws = block_uniforms(self.seed, block, rows.shape)
        return np.where(draws < grey, np.uint8(255), np.uint8(0))

    def _finish(self, rows: np.ndarray) -> Tensor:
        with np.errstate(over="ignore"):  # infinity is found where the file is opened
            if self.shift is not None and self.scale is not None:
                rows = (_as_seen(rows, np.float64) - self.shift) / self.scale
            if rows.dtype != np.uint8:
                rows = rows.astype(np.float64 if self.wide else np.float32, copy=False)
        return torch.from_numpy(rows).to(self.device)


def _as_seen(rows: np.ndarray, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """As the model sees them: 255 is 1."""
    rows = rows / np.float32(255) if rows.dtype == np.uint8 else rows
    return rows.astype(dtype, copy=False)

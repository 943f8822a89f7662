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
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowvae.errors import UserError

__all__ = ["ArrayFile", "FileRows"]

_BLOCK_BYTES = 2**18
_POOL_BYTES = 2**26  # rows shuffled together
_LEAST_BLOCKS = 1000  # where the file has so many rows


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
        """Rows in one block; fewer in a small file, so that there are many to divide."""
        rows = _BLOCK_BYTES // max(1, self.row_values * self.dtype.itemsize)
        return max(1, min(rows, len(self) // _LEAST_BLOCKS))

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
        buffer = rows.reshape(-1).view(np.uint8).data
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset + start * self.row_values * self.dtype.itemsize)
            done = 0
            while done < len(buffer):
                count = file.readinto(buffer[done:])
                if not count:
                    raise UserError(f"data: {self.path} ends before its last row; was it changed?")
                done += count
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
        shift: subtracted from every row, (P,), if given.
        scale: then divided by, (P,).
    """

    file: ArrayFile
    blocks: np.ndarray
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    binary: bool = False
    seed: int | None = None
    shift: Tensor | None = None
    scale: Tensor | None = None

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
        eight_bit = self.file.dtype == np.uint8 and self.shift is None
        return torch.uint8 if self.binary or eight_bit else torch.float32

    def to(self, device: torch.device) -> FileRows:
        return replace(self, device=torch.device(device))

    def binarized(self, seed: int | None) -> FileRows:
        """By threshold, or by a fixed draw where a seed is given."""
        return replace(self, binary=True, seed=seed)

    def standardized(self, shift: np.ndarray, scale: np.ndarray) -> FileRows:
        return replace(
            self,
            shift=torch.from_numpy(shift.astype(np.float32)),
            scale=torch.from_numpy(scale.astype(np.float32)),
        )

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

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Every row once, in random order, in batches (n, P); the last batch may be smaller.

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
        for start in range(0, len(order), together):
            blocks = [self._block(int(each)) for each in order[start : start + together]]
            pool = np.concatenate([left, *blocks])
            del blocks
            shuffle = permutation(len(pool)).numpy()
            last = start + together >= len(order)
            full = len(pool) if last else len(pool) - len(pool) % batch_size
            for first in range(0, full, batch_size):
                yield self._finish(pool[shuffle[first : first + batch_size][: full - first]])
            left = pool[shuffle[full:]]

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
        grey = rows / np.float32(255) if rows.dtype == np.uint8 else rows
        if self.seed is None:
            return np.where(grey >= 0.5, np.uint8(255), np.uint8(0))
        draws = np.random.default_rng([self.seed, block]).random(rows.shape, np.float32)
        return np.where(draws < grey, np.uint8(255), np.uint8(0))

    def _finish(self, rows: np.ndarray) -> Tensor:
        if rows.dtype != np.uint8 and rows.dtype != np.float32:
            rows = rows.astype(np.float32)
        found = torch.from_numpy(rows).to(self.device)
        if self.shift is None or self.scale is None:
            return found
        if found.dtype == torch.uint8:
            found = found.float().div_(255)
        return (found - self.shift.to(self.device)) / self.scale.to(self.device)

"""Batches drawn by index from data that lies on the device, or streamed from its file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from flowvae.data.dataset import Split
from flowvae.data.rows import FileRows

__all__ = ["Batches"]

_VALUES_AT_ONCE = 2**20


class Batches:
    """Every datum once, in random order, ``batch_size`` at a time; the last batch may be smaller.

    Data that stays in its file is shuffled in large pieces, see :mod:`flowvae.data.rows`.

    Args:
        split: data, already on the device (or rows on disk that are wanted there).
        batch_size: data per batch.
        generator: on the same device, of the order.
        dynamic: give a fresh Bernoulli(x) draw of each image instead of its grey values.
        noise: generator of those draws; that of the order if not given.

    Examples:
        >>> import torch
        >>> from flowvae.data import Split
        >>> split = Split(torch.rand(10, 4))
        >>> [len(x) for x in Batches(split, 4, torch.Generator())]
        [4, 4, 2]
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        generator: torch.Generator,
        dynamic: bool = False,
        noise: torch.Generator | None = None,
    ) -> None:
        self.split, self.batch_size = split, batch_size
        self.generator, self.dynamic = generator, dynamic
        self.noise = generator if noise is None else noise

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        return self.skipping(0)

    def skipping(self, count: int) -> Iterator[Tensor]:
        """The batches after the first ``count``, for which no noise is drawn."""
        if isinstance(self.split.data, FileRows):
            yield from self._streamed(self.split.data, count)
            return
        order = torch.randperm(
            len(self.split), generator=self.generator, device=self.split.data.device
        )
        # Small batches are fetched several together: fewer operations for the same rows.
        P = max(1, math.prod(self.split.data.shape[1:]))
        group = max(1, _VALUES_AT_ONCE // (self.batch_size * P))
        # Groups begin where they always do: a product's last bit depends on where in memory x is.
        done, first = divmod(count, group)
        for index in order.split(group * self.batch_size)[done:]:
            for x in self.split.values(index).split(self.batch_size)[first:]:
                yield self._drawn(x)
            first = 0

    def _streamed(self, rows: FileRows, count: int) -> Iterator[Tensor]:
        for part in islice(rows.shuffled(self.batch_size, self.generator), count, None):
            yield self._drawn(Split(part).values())

    def _drawn(self, x: Tensor) -> Tensor:
        return torch.bernoulli(x, generator=self.noise) if self.dynamic else x

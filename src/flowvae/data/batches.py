"""Batches drawn by index from images that lie on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from flowvae.data.dataset import Split

__all__ = ["Batches"]


class Batches:
    """Every image once, in random order, ``batch_size`` at a time; the last batch may be smaller.

    Args:
        split: images, already on the device.
        batch_size: images per batch.
        generator: on the same device; order and dynamic binarization come from it alone.
        dynamic: give a fresh Bernoulli(x) draw of each image instead of its grey values.

    Examples:
        >>> import torch
        >>> from flowvae.data import Split
        >>> split = Split(torch.rand(10, 4))
        >>> [len(x) for x in Batches(split, 4, torch.Generator())]
        [4, 4, 2]
    """

    def __init__(
        self, split: Split, batch_size: int, generator: torch.Generator, dynamic: bool = False
    ) -> None:
        self.split, self.batch_size = split, batch_size
        self.generator, self.dynamic = generator, dynamic

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(
            len(self.split), generator=self.generator, device=self.split.images.device
        )
        for index in order.split(self.batch_size):
            x = self.split.values(index)
            yield torch.bernoulli(x, generator=self.generator) if self.dynamic else x

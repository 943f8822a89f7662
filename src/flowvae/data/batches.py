"""Batches drawn by index from data that lies on the device, or streamed from its file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor

from flowvae.data.dataset import Split
from flowvae.data.rows import FileRows
from flowvae.errors import UserError

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
        labelled: data whose condition is known that each batch has beside its own, in random order
            and again and again; all are seen equally often.

    Raises:
        UserError: ``labelled`` data are wanted, and there are none.

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
        labelled: int = 0,
    ) -> None:
        self.split, self.batch_size = split, batch_size
        self.generator, self.dynamic = generator, dynamic
        self.noise = generator if noise is None else noise
        self.labelled, self._known = labelled, None
        if labelled:
            self._known = _places_of_known(split)

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    @property
    def full_size(self) -> int:
        """Rows of a batch that is not the last."""
        return self.batch_size + self.labelled

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
        beside = self._beside()
        for number, index in enumerate(order.split(group * self.batch_size)[done:], done):
            for n, x in enumerate(self.split.rows(index).split(self.batch_size)):
                if n >= first:
                    yield self._drawn(x if beside is None else beside(x, number * group + n))
            first = 0

    def _beside(self) -> Callable[[Tensor, int], Tensor] | None:
        """What puts labelled data beside those of the batch of this number."""
        known, n = self._known, self.labelled
        if known is None:
            return None
        order = torch.randperm(len(known), generator=self.generator, device=known.device)
        step = torch.arange(n, device=known.device)

        def beside(x: Tensor, number: int) -> Tensor:
            chosen = known[order[(number * n + step) % len(known)]]
            return torch.cat([x, self.split.rows(chosen)])

        return beside

    def _streamed(self, rows: FileRows, count: int) -> Iterator[Tensor]:
        beside, condition = self._beside(), self.split.condition
        batches = enumerate(rows.shuffled(self.batch_size, self.generator))
        for number, (part, places) in islice(batches, count, None):
            chosen = None if condition is None else condition[places]
            x = Split(part, condition=chosen).rows()
            yield self._drawn(x if beside is None else beside(x, number))

    def _drawn(self, x: Tensor) -> Tensor:
        if not self.dynamic:
            return x
        P = self.split.data.shape[1]
        if x.shape[1] == P and not self.split.has_missing:
            return torch.bernoulli(x, generator=self.noise)
        values = x[:, :P]
        drawn = torch.bernoulli(values.nan_to_num(0.0), generator=self.noise)
        return torch.cat([torch.where(values.isnan(), values, drawn), x[:, P:]], 1)


def _places_of_known(split: Split) -> Tensor:
    """Where the data are whose condition is known."""
    if split.condition is None:
        raise UserError("condition: expected labels, the data has none")
    known = (~split.condition.isnan().any(1)).nonzero().flatten()
    if not len(known):
        raise UserError("condition: expected some data with a label, got none")
    return known

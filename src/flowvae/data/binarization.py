"""From grey pixels to binary ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from flowvae.data.dataset import Binarization, Dataset, Origin, Split
from flowvae.data.rows import FileRows, block_uniforms
from flowvae.errors import UserError

__all__ = ["binarize"]

# The fixed draws of `static`, and of the test images under `dynamic`, belong to the datum: every
# run sees the same binary images, whatever its seed and its splits.
_STATIC_SEED = 0
_VALUES_AT_ONCE = 2**20


def binarize(dataset: Dataset, policy: Binarization) -> Dataset:
    """Apply a binarization policy to a grey data set.

    - ``none``: grey pixels stay; a Bernoulli likelihood is then a pseudo-likelihood.
    - ``threshold``: 1 where x ≥ ½.
    - ``static``: one fixed Bernoulli(x) draw of every image, the same for all runs. It depends on
      the image's place in its source alone, not on the seed or on how the source is split.
    - ``dynamic``: a fresh Bernoulli(x) draw each time a training image is used (see
      :class:`Batches`); the test and validation images are their fixed draw, so that runs can be
      compared.

    Results under different policies are never comparable.

    Raises:
        UserError: there are values outside [0, 1].
    """
    if policy == "none":
        return replace(dataset, binarization=policy)
    for split in dataset.splits.values():
        if dataset.columns is not None:
            raise UserError(f"binarization: {policy} expects pixels, got a table, {dataset.name}")
        if split.data.dtype == torch.uint8:
            continue
        low, high = split.statistics.low, split.statistics.high
        if low < 0 or high > 1:
            raise UserError(
                f"binarization: {policy} expects pixels in [0, 1], got {low:g} to {high:g} in "
                f"{dataset.name}"
            )
    splits = dataset.splits
    if policy == "dynamic":
        del splits["train"]
    change: dict[str, Split] = {}
    for name, split in splits.items():
        if isinstance(split.data, FileRows):
            if split.has_missing:
                raise UserError(
                    f"binarization: {policy} of data with missing values expects them in memory, "
                    f"{dataset.name} is larger than memory_budget; raise it"
                )
            seed = None if policy == "threshold" else _STATIC_SEED
            change[name] = replace(split, data=split.data.binarized(seed))
        elif policy == "threshold":
            change[name] = replace(split, data=_with_gaps(_thresholded(split), split))
    if policy != "threshold":
        change |= _drawn({name: split for name, split in splits.items() if name not in change})
    return replace(dataset, binarization=policy, **change)


def _thresholded(split: Split) -> Tensor:
    found = torch.empty(tuple(split.data.shape), dtype=torch.uint8)
    step = max(1, _VALUES_AT_ONCE // split.data.shape[1])
    for start in range(0, len(split), step):
        place = slice(start, start + step)
        found[place] = _as_bytes(split.values(place) >= 0.5)
    return found


def _drawn(splits: dict[str, Split]) -> dict[str, Split]:
    """1 where a uniform number is below x: the one of the value's place in the source."""
    origins = {name: split.origin or Origin(name, len(split)) for name, split in splits.items()}
    found = {k: torch.empty(split.data.shape, dtype=torch.uint8) for k, split in splits.items()}
    generator = torch.Generator().manual_seed(_STATIC_SEED)
    # Test first: its draw then does not depend on what else is drawn.
    for part in ("all", "test", "train", "validation"):
        places = {name: _places(each) for name, each in origins.items() if each.part == part}
        if not places:
            continue
        first, start = next(iter(places)), 0
        P = splits[first].data.shape[1]
        for uniforms in _uniforms(origins[first], P, generator):
            for name, place in places.items():
                row = place[start : start + len(uniforms)]
                ours = row >= 0
                x = splits[name].values(row[ours])
                found[name][row[ours]] = _as_bytes(uniforms[ours] < x)
            start += len(uniforms)
    return {
        name: replace(split, data=_with_gaps(found[name], split)) for name, split in splits.items()
    }


def _with_gaps(drawn: Tensor, split: Split) -> Tensor:
    """Bytes, but NaN where the split has it, for which a byte has no place."""
    if not split.has_missing:
        return drawn
    return torch.where(split.values().isnan(), math.nan, drawn / 255)


def _as_bytes(ones: Tensor) -> Tensor:
    return ones.to(torch.uint8) * 255


def _places(origin: Origin) -> Tensor:
    """For each datum of the source, which of the split it is; -1 if none."""
    if origin.rows is None:
        return torch.arange(origin.count)
    found = torch.full((origin.count,), -1)
    found[origin.rows] = torch.arange(len(origin.rows))
    return found


def _uniforms(origin: Origin, P: int, generator: torch.Generator) -> Iterator[Tensor]:
    """U[0, 1) for every value of a part of the source, in its order, some rows at a time.

    Data that is not cut into train and test has those of the same data in a file larger than
    memory.
    """
    if origin.part == "all":
        for block, start in enumerate(range(0, origin.count, origin.block_rows)):
            rows = min(origin.block_rows, origin.count - start)
            yield torch.from_numpy(block_uniforms(_STATIC_SEED, block, (rows, P)))
        return
    step = max(1, _VALUES_AT_ONCE // P)
    for start in range(0, origin.count, step):
        yield torch.rand(min(step, origin.count - start), P, generator=generator)

"""Long evaluations in parts that are kept: a run that was stopped goes on where it was.

A part is an estimate for some data of the test split, computed in blocks. Each finished block is a
file under ``evaluation/NAME/KEY/``, where the key is a digest of all that the numbers depend on:
the weights, the data, the settings and the seed. What was computed for anything else stays where
it is, and is not used. Several processes share the blocks out, on a disk that all of them see.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae.data import Split
from flowvae.evaluation.estimates import ignore
from flowvae.files import replacing
from flowvae.processes import share_out
from flowvae.vae import VAE

__all__ = ["CachedEstimate", "data_digest", "in_order", "model_digest"]

_VERSION = 2  # of what the estimators compute, likelihoods and all

Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class CachedEstimate:
    """One estimate of a run.

    Args:
        name: of its folder.
        count: data it is computed for, the first of :func:`in_order`.
        block: data between two files.
        cost: of one datum, in decoder passes: for the time left.
        settings: all that the numbers depend on besides model, data and seed.
        compute: the estimate for the data of a block: gives name -> (n, ...) each.
    """

    name: str
    count: int
    block: int
    cost: int | float
    settings: dict[str, Any]
    compute: Callable[[slice, torch.Generator], Arrays]

    @property
    def total(self) -> int | float:
        return self.cost * self.count

    def load_or_compute(
        self,
        folder: Path,
        about: dict[str, Any],
        seed: int,
        device: torch.device,
        advance: Callable[[float], None] = ignore,
    ) -> Arrays:
        """The estimate, from the files that are there and by computing those that are not.

        Args:
            folder: ``evaluation/`` of the run.
            about: digests of model and data.
            seed: of the draws; each block has a generator of its own.
            device: of that generator.
            advance: called with the cost of what was done.
        """
        depends = {**about, **self.settings, "seed": seed, "version": _VERSION, "block": self.block}
        key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
        starts = range(0, self.count, self.block)

        def at(start: int) -> tuple[Path, slice]:
            chosen = slice(start, min(start + self.block, self.count))
            size = chosen.stop - chosen.start
            return folder / self.name / key / f"{start:07}-{size}.npz", chosen

        def compute(start: int) -> None:
            file, chosen = at(start)
            if not file.exists():
                own = zlib.crc32(f"{self.name} {seed} {start}".encode())
                found = self.compute(chosen, torch.Generator(device).manual_seed(own))
                arrays = {name: value.cpu().numpy() for name, value in found.items()}
                with replacing(file) as temporary:
                    np.savez_compressed(temporary, **arrays)  # pyright: ignore
            advance(self.cost * (chosen.stop - chosen.start))

        share_out(starts, compute)
        parts = [_read(at(start)[0]) for start in starts]
        return {
            name: torch.from_numpy(np.concatenate([part[name] for part in parts]))
            for name in parts[0]
        }


def _read(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as loaded:
        return dict(loaded)


def in_order(split: Split, count: int | None = None) -> Tensor:
    """Which data a part is computed for: a fixed random order, so that fewer are a fair share.

    Parts of different counts share their first data, so they can be compared datum by datum.
    """
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    return order if count is None else order[:count]


def data_digest(split: Split, blocks: int | None = None) -> str:
    """A digest of the data's values and conditions, by which runs are told to have the same.

    Args:
        split: the data.
        blocks: how many of its blocks are read at most, evenly spaced; all if not given.
    """
    digest = hashlib.sha256(str((tuple(split.data.shape), str(split.data.dtype))).encode())
    rows = max(1, 2**24 // max(1, math.prod(split.data.shape[1:])))
    starts = range(0, len(split), rows)
    for start in starts if blocks is None else starts[:: -(-len(starts) // blocks) or 1]:
        part = split.data[start : start + rows]  # of a file larger than memory: read as needed
        digest.update(part.cpu().contiguous().numpy().tobytes())
    if split.condition is not None:
        digest.update(split.condition.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def model_digest(model: VAE) -> str:
    """A digest of the weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

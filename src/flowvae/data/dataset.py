"""A data set in memory: two splits of numbers in [0, 1], and what binarization does to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flowvae.errors import UserError

__all__ = ["Binarization", "Dataset", "Split", "binarize"]

Binarization = Literal["none", "dynamic", "static", "threshold"]

# The fixed draws of `static`, and of the test images under `dynamic`, belong to the data and not
# to the run: every run sees the same binary images, whatever its seed.
_STATIC_SEED = 0


@dataclass(frozen=True)
class Split:
    """One split: images (N, P), either uint8 with 255 for 1, or float32 in [0, 1]; labels (N,)."""

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Split:
        return replace(self, images=self.images.to(device))

    def values(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The chosen images as float32 in [0, 1], (n, P)."""
        images = self.images[index]
        return images.float().div_(255) if images.dtype == torch.uint8 else images

    def is_binary(self) -> bool:
        one = 255 if self.images.dtype == torch.uint8 else 1
        return all(bool(((part == 0) | (part == one)).all()) for part in self.images.split(10_000))


@dataclass(frozen=True)
class Dataset:
    """Training and test data of one shape.

    Args:
        name: what ``--data`` names, recorded with the run.
        train: what is learned from.
        test: what is held out.
        data_shape: shape of one datum, such as (28, 28).
        binarization: the policy that was applied, see :func:`binarize`.
    """

    name: str
    train: Split
    test: Split
    data_shape: tuple[int, ...]
    binarization: Binarization = "none"

    @classmethod
    def from_arrays(
        cls,
        train: np.ndarray,
        test: np.ndarray,
        train_labels: np.ndarray | None = None,
        test_labels: np.ndarray | None = None,
        name: str = "arrays",
    ) -> Dataset:
        """Check and adopt arrays (N, ...) of uint8, or of numbers in [0, 1].

        Raises:
            UserError: wrong shape or type, NaN, or values outside [0, 1].

        Examples:
            >>> import numpy as np
            >>> Dataset.from_arrays(np.zeros((6, 8, 5)), np.zeros((2, 8, 5))).data_shape
            (8, 5)
        """
        if train.shape[1:] != test.shape[1:]:
            raise UserError(
                f"{name}: expected train and test data of one shape, "
                f"got {train.shape[1:]} and {test.shape[1:]}"
            )
        return cls(
            name,
            _split(train, train_labels, f"{name}: train"),
            _split(test, test_labels, f"{name}: test"),
            tuple(train.shape[1:]),
        )

    @property
    def pseudo_likelihood(self) -> bool:
        """Whether log p(x|z) under a Bernoulli likelihood is a pseudo-likelihood: grey pixels."""
        if self.binarization != "none":
            return False
        return not (self.train.is_binary() and self.test.is_binary())


def _split(images: np.ndarray, labels: np.ndarray | None, name: str) -> Split:
    if images.ndim < 2 or images.size == 0:
        raise UserError(f"{name}: expected an array (N, ...) that is not empty, got {images.shape}")
    if images.dtype != np.uint8:
        if images.dtype.kind not in "fiub":
            raise UserError(f"{name}: expected numbers, got dtype {images.dtype}")
        if not np.isfinite(images).all():
            raise UserError(f"{name}: expected finite numbers, got NaN or infinity")
        low, high = images.min(), images.max()
        if low < 0 or high > 1:
            raise UserError(
                f"{name}: expected numbers in [0, 1], or uint8, "
                f"got {images.dtype} from {low:g} to {high:g}"
            )
        images = images.astype(np.float32)
    if labels is not None:
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise UserError(
                f"{name} labels: expected {len(images)} integers, got {labels.dtype} {labels.shape}"
            )
        labels = labels.astype(np.int64)
    flat = np.array(images.reshape(len(images), -1))  # a copy: owned and writable
    return Split(torch.from_numpy(flat), None if labels is None else torch.from_numpy(labels))


def binarize(dataset: Dataset, policy: Binarization) -> Dataset:
    """Apply a binarization policy to a grey data set.

    - ``none``: grey pixels stay; a Bernoulli likelihood is then a pseudo-likelihood.
    - ``threshold``: 1 where x ≥ ½.
    - ``static``: one fixed Bernoulli(x) draw of every image, the same for all runs.
    - ``dynamic``: a fresh Bernoulli(x) draw each time a training image is used (see
      :class:`Batches`); the test images are one fixed draw, so that runs can be compared.

    Results under different policies are never comparable.
    """
    train, test = dataset.train, dataset.test
    if policy == "threshold":
        train, test = (_map(split, _threshold) for split in (train, test))
    elif policy in ("static", "dynamic"):
        generator = torch.Generator().manual_seed(_STATIC_SEED)
        test = _map(test, lambda x: _draw(x, generator))
        if policy == "static":
            train = _map(train, lambda x: _draw(x, generator))
    return replace(dataset, train=train, test=test, binarization=policy)


def _map(split: Split, function) -> Split:
    """Replace the images by the 0 or 1 that ``function`` makes of them, as uint8 0 or 255."""
    parts = [
        function(split.values(slice(start, start + 10_000))).to(torch.uint8) * 255
        for start in range(0, len(split), 10_000)
    ]
    return replace(split, images=torch.cat(parts))


def _threshold(x: Tensor) -> Tensor:
    return x >= 0.5


def _draw(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.bernoulli(x, generator=generator)

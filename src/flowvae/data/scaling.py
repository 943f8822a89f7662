"""Values minus their mean, over their deviation; all of it in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from flowvae.data.columns import Column, is_constant
from flowvae.data.dataset import Dataset, Split
from flowvae.data.rows import FileRows
from flowvae.errors import UserError

__all__ = ["ColumnScaler", "moments", "standardize"]

_VALUES_AT_ONCE = 2**20


def standardize(dataset: Dataset, columns: Sequence[Column] | None = None) -> Dataset:
    """Each value of data (N, P) minus its mean over the training split, over its deviation.

    Args:
        dataset: not a table; those are standardised as they are read.
        columns: use these means and scales instead.

    Raises:
        UserError: data of another shape, or a value is constant.
    """
    if len(dataset.data_shape) != 1:
        raise UserError(
            f"scaling: expected data of shape (N, P) to standardise, got data of shape "
            f"{dataset.data_shape} in {dataset.name}"
        )
    P = dataset.data_shape[0]
    if columns is None:
        mean, scale = moments(dataset.train)
        if not np.isfinite([mean, scale]).all():
            raise UserError(
                f"scaling: expected finite numbers with a finite variance in the training split of "
                f"{dataset.name}, got others"
            )
        constant = np.flatnonzero(is_constant(mean, scale))
        if len(constant):
            shown = ", ".join(str(k) for k in constant[:5])
            raise UserError(
                f"scaling: {len(constant)} of {P} values are constant in the training split of "
                f"{dataset.name} (number {shown}{' …' if len(constant) > 5 else ''}); leave them "
                "out, or use scaling=none"
            )
        columns = tuple(
            Column(f"x_{k + 1}", "numeric", mean=float(mean[k]), scale=float(scale[k]))
            for k in range(P)
        )
    elif len(columns) != P or any(column.kind != "numeric" for column in columns):
        raise UserError(
            f"data: the model expects a table of {len(columns)} columns, {dataset.name} has "
            f"arrays of {P} numbers"
        )
    mean = np.array([column.mean for column in columns])
    scale = np.array([column.scale for column in columns])
    splits = {
        name: _scaled(split, mean, scale, f"{dataset.name}: {name}")
        for name, split in dataset.splits.items()
    }
    return replace(dataset, columns=tuple(columns), **splits)


class ColumnScaler:
    """Arrays (N, P) in the data's own units, to standardised numbers and back.

    Args:
        columns: their means and scales; none if they stay as they are.
    """

    def __init__(self, columns: Sequence[Column] | None) -> None:
        self.mean = np.array([column.mean for column in columns or ()] or 0.0)
        self.scale = np.array([column.scale for column in columns or ()] or 1.0)

    @property
    def log_volume(self) -> float:
        """Σ log scale: log |det| of standardising is minus this."""
        return float(np.log(self.scale).sum())

    def encode(self, X: np.ndarray, dtype: type[np.floating]) -> torch.Tensor:
        return torch.from_numpy(np.array((X - self.mean) / self.scale, dtype=dtype, order="C"))

    def decode(self, x: torch.Tensor) -> np.ndarray:
        return x.cpu().double().numpy() * self.scale + self.mean

    @staticmethod
    def fit(X: np.ndarray, names: Sequence[str]) -> tuple[Column, ...]:
        """The columns of X (N, P); a constant one is shifted only.

        Raises:
            ValueError: a column has no finite variance.
        """
        mean, scale = moments(Split(torch.from_numpy(np.array(X, np.float64, order="C"))))
        if not np.isfinite([mean, scale]).all():
            raise ValueError("X: expected columns with a finite variance, got one without")
        scale = np.where(is_constant(mean, scale), 1.0, scale)
        return tuple(
            Column(str(name), "numeric", mean=float(m), scale=float(s))
            for name, m, s in zip(names, mean, scale, strict=True)
        )


def moments(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (N in the denominator) of each value, (P,) each, in float64.

    Values that are missing, NaN, do not count; of one that is never there both are NaN.

    In two passes, a part at a time: what is lost where the mean is far larger than the deviation
    is lost in a difference of squares.
    """
    parts = list(_parts(split))
    count = sum((~split.values(part).isnan()).sum(0) for part in parts)
    mean = sum(split.values(part).double().nansum(0) for part in parts) / count
    square = sum((split.values(part).double() - mean).square().nansum(0) for part in parts)
    return np.asarray(mean), np.sqrt(np.asarray(square) / np.asarray(count))


def _parts(split: Split) -> Iterator[slice]:
    step = max(1, _VALUES_AT_ONCE // split.data.shape[1])
    return (slice(start, start + step) for start in range(0, len(split), step))


def _scaled(split: Split, mean: np.ndarray, scale: np.ndarray, name: str) -> Split:
    if isinstance(split.data, FileRows):
        found = replace(split, data=split.data.standardized(mean, scale))
    else:
        shift, width = torch.from_numpy(mean), torch.from_numpy(scale)
        scaled = torch.empty(tuple(split.data.shape))
        for part in _parts(split):
            scaled[part] = (split.values(part).double() - shift) / width
        found = replace(split, data=scaled)
    if not np.isfinite([found.statistics.low, found.statistics.high]).all():
        raise UserError(f"{name}: expected finite numbers once standardised, got NaN or infinity")
    return found

"""From what ``--data`` names to a :class:`Dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowvae.data.arrays import numpy_file
from flowvae.data.columns import Column
from flowvae.data.dataset import Binarization, Dataset, Split, binarize
from flowvae.data.found import Found, split_dataset
from flowvae.data.hub import hub_dataset
from flowvae.data.idx import bundled_mnist, idx_file, idx_folder, is_idx
from flowvae.data.images import image_folder, is_image_folder
from flowvae.data.options import Options
from flowvae.data.rows import FileRows
from flowvae.data.table_files import is_table, table_file
from flowvae.errors import UserError

if TYPE_CHECKING:
    from flowvae.config import Config

__all__ = ["load_configured", "load_dataset", "standardize"]

_EXPECTED = (
    "'mnist', hf:NAME, a folder of IDX files or pictures, an IDX file, a .npy or .npz, "
    "or a .csv or .parquet table"
)


def load_dataset(
    name: str = "mnist",
    binarization: Binarization = "none",
    test_fraction: float = 0.1,
    seed: int = 0,
    *,
    columns: Sequence[Column] | None = None,
    **options: Any,
) -> Dataset:
    """Load data by name or path.

    Args:
        name: ``"mnist"``, bundled with the package; a folder of IDX files named as MNIST's are,
            or one IDX file; a ``.npz`` with ``x_train`` and ``x_test`` (and labels ``y_train``,
            ``y_test``), or with ``x`` (and ``y``) alone; a ``.npy`` of shape (N, ...); a ``.csv``
            or ``.parquet`` table; a folder of pictures, classes in subfolders; ``hf:NAME``, a
            Hugging Face data set.
        binarization: see :func:`binarize`.
        test_fraction: share held out where the data names no test set.
        seed: of that split, and of the validation split.
        columns: a trained model's, to give new data the transformation it was trained with.
        **options: other fields of :class:`flowvae.data.Options`.

    Raises:
        UserError: the data is missing, corrupt or of no use; one line that says which and why.

    Examples:
        >>> len(load_dataset("mnist").train), load_dataset("mnist").data_shape
        (60000, (28, 28))
        >>> len(load_dataset("mnist", validation_fraction=0.1).validation)
        6000
    """
    chosen = Options(test_fraction=test_fraction, seed=seed, **options)
    path = Path(name).expanduser()
    if name.startswith("hf:"):
        dataset = hub_dataset(name, chosen, columns)
    elif is_table(path) and path.is_file():
        dataset = table_file(path, chosen, columns)
    else:
        found = _found(name, path, chosen)
        dataset = split_dataset(found, test_fraction, chosen.validation_fraction, seed)
    if dataset.columns is None and (columns is not None or chosen.scaling == "standard"):
        dataset = standardize(dataset, columns)
    return binarize(dataset, binarization)


def load_configured(config: Config, columns: Sequence[Column] | None = None) -> Dataset:
    """The data that a configuration names, read as it says; by a trained model's columns."""
    options = asdict(Options.from_config(config))
    return load_dataset(config.data, config.binarization, columns=columns, **options)


def _found(name: str, path: Path, options: Options) -> Found:
    budget = options.budget_bytes
    if name == "mnist":
        return bundled_mnist()
    if path.is_dir():
        if any(path.glob("*train-images*")) or not is_image_folder(path):
            if not any(each.is_file() and is_idx(each) for each in path.iterdir()):
                raise UserError(f"data: expected IDX files or pictures in {path}, got neither")
            return idx_folder(path, budget)
        return image_folder(path, budget, options.image_size)
    if path.suffix in (".npy", ".npz") and path.is_file():
        return numpy_file(path, budget, options.label_column)
    if path.is_file() and is_idx(path):
        return idx_file(path, budget)
    if path.exists():
        raise UserError(f"data: expected {_EXPECTED}, got {name}")
    raise UserError(f"data: expected {_EXPECTED}; no such file or folder: {name}")


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
        mean, scale = _moments(dataset.train)
        constant = np.flatnonzero(scale <= 1e-6 * np.maximum(1.0, np.abs(mean)))
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
    splits = {name: _scaled(split, mean, scale) for name, split in dataset.splits.items()}
    return replace(dataset, columns=tuple(columns), **splits)


def _moments(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (N in the denominator), in two passes, a part at a time."""
    step = max(1, 2**20 // split.images.shape[1])
    starts = range(0, len(split), step)
    parts = [slice(start, start + step) for start in starts]
    mean = sum(split.values(part).double().sum(0) for part in parts) / len(split)
    square = sum((split.values(part).double() - mean).square().sum(0) for part in parts)
    return np.asarray(mean), np.sqrt(np.asarray(square) / len(split))


def _scaled(split: Split, mean: np.ndarray, scale: np.ndarray) -> Split:
    if isinstance(split.images, FileRows):
        return replace(split, images=split.images.standardized(mean, scale))
    shift, width = torch.from_numpy(mean), torch.from_numpy(scale)
    return replace(split, images=((split.values().double() - shift) / width).float())

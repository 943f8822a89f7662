"""From what ``--data`` names to a :class:`Dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flowvae.config import DataSection
from flowvae.data.arrays import numpy_file
from flowvae.data.binarization import binarize
from flowvae.data.columns import Column
from flowvae.data.conditions import conditioned
from flowvae.data.dataset import Binarization, Dataset, not_finite
from flowvae.data.hub import hub_dataset
from flowvae.data.idx import bundled_mnist, idx_file, idx_folder, is_idx
from flowvae.data.images import image_folder, is_image_folder
from flowvae.data.options import Options
from flowvae.data.scaling import standardize
from flowvae.data.splits import SourceArrays, split_dataset
from flowvae.data.table_files import is_table, table_file
from flowvae.errors import UserError, first_complaint, shown

__all__ = ["load_configured", "load_dataset"]

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
    condition_columns: Sequence[Column] | None = None,
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
        condition_columns: a trained model's, of what it is conditioned on.
        **options: other fields of :class:`flowvae.data.Options`.

    Raises:
        UserError: the data is missing, corrupt or of no use; one line that says which and why.

    Examples:
        >>> len(load_dataset("mnist").train), load_dataset("mnist").data_shape
        (60000, (28, 28))
        >>> len(load_dataset("mnist", validation_fraction=0.1).validation)
        6000
    """
    chosen = _options(
        source=name, binarization=binarization, test_fraction=test_fraction, seed=seed, **options
    )
    path = _path(name)
    if name.startswith("hf:"):
        dataset = hub_dataset(name, chosen, columns, condition_columns)
    elif is_table(path) and path.is_file():
        dataset = table_file(path, chosen, columns, condition_columns)
    else:
        found = _found(name, path, chosen)
        wide, gaps = columns is not None or chosen.scaling == "standard", chosen.missing == "model"
        dataset = split_dataset(found, test_fraction, chosen.validation_fraction, seed, wide, gaps)
    if dataset.columns is None and (columns is not None or chosen.scaling == "standard"):
        dataset = standardize(dataset, columns)
        _check_there(dataset, chosen)
    if chosen.labelled is not None and dataset.condition is not None:
        raise UserError(
            f"labelled: expected labels as the condition, got the column {chosen.condition[0]!r}; "
            f"label_column={chosen.condition[0]} makes labels of it"
        )
    dataset = conditioned(dataset, chosen.condition, condition_columns, labelled=chosen.labelled)
    return binarize(dataset, binarization)


def _check_there(dataset: Dataset, options: Options) -> None:
    """See that nothing is missing: means and deviations do without it."""
    for name, split in dataset.splits.items():
        if options.missing != "model" and split.has_missing:
            raise not_finite(f"{dataset.name}: {name}")


def load_configured(
    section: DataSection,
    seed: int,
    columns: Sequence[Column] | None = None,
    condition_columns: Sequence[Column] | None = None,
) -> Dataset:
    """The data that a configuration names, read as it says; by a trained model's columns."""
    named = section.model_dump()
    source, binarization = named.pop("source"), named.pop("binarization")
    known = {"columns": columns, "condition_columns": condition_columns}
    return load_dataset(source, binarization, seed=seed, **known, **named)


def _path(name: str) -> Path:
    """Where a name points to, if anywhere: no user's home may be known, and no name be too long."""
    path = Path(name)
    try:
        path = path.expanduser()
    except RuntimeError:  # ~nobody, or no home
        return path
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"data: expected {_EXPECTED}, got {shown(name)}: {reason}") from None
    return path


def _options(**fields: Any) -> Options:
    try:
        return Options(**fields)
    except ValidationError as error:
        raise UserError(": ".join(first_complaint(error))) from None


def _found(name: str, path: Path, options: Options) -> SourceArrays:
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
        return numpy_file(path, budget, options.label_column, options.condition)
    if path.is_file() and is_idx(path):
        return idx_file(path, budget)
    if path.exists():
        raise UserError(f"data: expected {_EXPECTED}, got {name}")
    raise UserError(f"data: expected {_EXPECTED}; no such file or folder: {name}")

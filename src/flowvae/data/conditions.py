"""What data is conditioned on: labels, columns of a table, or arrays, as numbers beside the data.

A condition has columns, as a table has: a label is a categorical one, one-hot; numbers are
standardised. A datum whose condition is not known has NaN there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae.data.columns import Column, encoded_width
from flowvae.data.dataset import Dataset, Split
from flowvae.data.tables import RawColumn, encode_table
from flowvae.errors import UserError, shown

__all__ = [
    "LABELS",
    "check_known",
    "class_numbers",
    "class_rows",
    "classes_of",
    "conditioned",
    "encode_condition",
    "with_labels_as_condition",
]

LABELS = "labels"
_UNLABELLED = -1  # as in scikit-learn's semi-supervised learning


def classes_of(columns: Sequence[Column] | None) -> tuple[str, ...] | None:
    """The classes, where the condition is one column of categories; else none.

    Examples:
        >>> classes_of([Column("label", "categorical", ("cat", "dog"))])
        ('cat', 'dog')
    """
    if columns is None or len(columns) != 1 or columns[0].kind == "numeric":
        return None
    return columns[0].categories


def class_rows(columns: Sequence[Column]) -> Tensor:
    """The condition of every class, (K, C).

    Examples:
        >>> class_rows([Column("label", "categorical", ("cat", "dog"))])
        tensor([[1., 0.],
                [0., 1.]])
    """
    classes = classes_of(columns)
    if classes is None:
        raise UserError(f"condition: expected classes, got {_named(columns)}")
    return encode_condition(columns, list(classes))


def class_numbers(columns: Sequence[Column], condition: Tensor) -> Tensor:
    """Which class each condition (N, C) is of, (N,); -1 where it is not known."""
    known = condition.nan_to_num(0.0)
    number = known[:, 0].long() if columns[0].kind == "binary" else known.argmax(1)
    return torch.where(condition.isnan().any(1), _UNLABELLED, number)


def encode_condition(
    columns: Sequence[Column] | None, given: Any, count: int | None = None
) -> Tensor:
    """A condition as a person writes it, as numbers: (N, C), float32.

    Args:
        columns: of the model.
        given: of one column a value or (N,) values, of several a mapping from their names to such;
            or a float tensor or array (N, C) of numbers that are encoded already.
        count: N; a single value is repeated so often.

    Raises:
        UserError: the model has no condition; a class that training has not seen; another shape.

    Examples:
        >>> columns = [Column("label", "categorical", ("cat", "dog"))]
        >>> encode_condition(columns, "dog", 2)
        tensor([[0., 1.],
                [0., 1.]])
        >>> encode_condition([Column("age", "numeric", mean=40.0, scale=10.0)], {"age": [30, 50]})
        tensor([[-1.],
                [ 1.]])
    """
    if columns is None:
        raise UserError("condition: expected none, the model is not conditional")
    if given is None:
        raise UserError(f"condition: expected {_named(columns)}, got none")
    C = encoded_width(columns)
    encoded = _encoded(given, C)
    if encoded is None:
        table = _as_mapping(columns, given)
        known = {column.name: column.categories for column in columns}
        raw = {name: _raw(name, value, known[name]) for name, value in table.items()}
        longest = max(len(column) for column in raw.values())
        total = longest if count is None else count
        raw = {name: _repeated(name, column, total) for name, column in raw.items()}
        encoded = torch.from_numpy(encode_table(columns, raw, "condition"))
    if count is not None and len(encoded) == 1 != count:
        encoded = encoded.expand(count, C)
    if count is not None and len(encoded) != count:
        raise UserError(f"condition: expected {count} rows, got {len(encoded)}")
    return encoded


def check_known(split: Split, name: str, hint: str = "") -> None:
    """See that the condition of every datum is known: z and p(x|y) are of a known y.

    Args:
        split: the data.
        name: of the split, for the message.
        hint: what else could be done.

    Raises:
        UserError: one is not known.
    """
    if split.condition is None:
        return
    unknown = int(split.condition.isnan().any(1).sum())
    if unknown:
        raise UserError(
            f"condition: expected a label for each of the {name} data, got none for {unknown} of "
            f"{len(split)}{hint}"
        )


def with_labels_as_condition(
    dataset: Dataset, columns: Sequence[Column] | None = None, *, labelled: int | None = None
) -> Dataset:
    """The data set, its labels as the condition of every datum.

    Args:
        dataset: with labels; negative ones count as missing.
        columns: of a trained model; else they are found here.
        labelled: keep so many labels of the training data, as many of each class, the first in
            order; those of the others count as missing.

    Raises:
        UserError: there are no labels, or a label is not among the classes of the columns.
    """
    splits = dataset.splits
    for name, split in splits.items():
        if split.labels is None:
            raise UserError(
                f"condition: expected labels in the {name} data of {dataset.name}, got none; "
                "label_column names them"
            )
    if columns is None:
        columns = (_label_column(dataset),)
    if labelled is not None:
        splits["train"] = _keeping(splits["train"], labelled, columns)
    found = {
        name: replace(split, condition=_conditions(split, columns, dataset, name))
        for name, split in splits.items()
    }
    return replace(dataset, condition=tuple(columns), **found)


def conditioned(
    dataset: Dataset,
    names: Sequence[str],
    columns: Sequence[Column] | None = None,
    *,
    labelled: int | None = None,
) -> Dataset:
    """The data set with what is named as the condition, where a reader has not done it already.

    Args:
        dataset: whose splits may have numbers of a condition that are yet to be standardised.
        names: ``("labels",)``, or what the reader has taken from its source; none for no condition.
        columns: of a trained model.
        labelled: see :func:`with_labels_as_condition`.

    Raises:
        UserError: the data has no such thing.
    """
    if labelled is not None and tuple(names) != (LABELS,):
        raise UserError("labelled: expected condition=labels beside it")
    if not names or dataset.condition is not None:
        return dataset
    if tuple(names) == (LABELS,):
        return with_labels_as_condition(dataset, columns, labelled=labelled)
    if dataset.train.condition is None:
        raise UserError(
            f"condition: expected 'labels', columns of a table or arrays of a .npz, got "
            f"{', '.join(names)}, which {dataset.name} has not"
        )
    if columns is None:
        columns = tuple(_numeric(dataset.train.condition, names))
    mean = torch.tensor([column.mean for column in columns], dtype=torch.float64)
    scale = torch.tensor([column.scale for column in columns], dtype=torch.float64)
    found: dict[str, Split] = {}
    for name, split in dataset.splits.items():
        given = split.condition
        if given is None or given.shape[1] != len(columns):
            got = "none" if given is None else given.shape[1]
            raise UserError(f"condition: expected {len(columns)} numbers a datum, got {got}")
        found[name] = replace(split, condition=((given.double() - mean) / scale).float())
    return replace(dataset, condition=tuple(columns), **found)


def _numeric(given: Tensor, names: Sequence[str]) -> list[Column]:
    """Columns with the mean and the deviation of the training data's numbers (N, C)."""
    found = []
    values = given.double()
    for k in range(values.shape[1]):
        name = names[0] if values.shape[1] == 1 else f"{'_'.join(names)}_{k + 1}"
        scale = values[:, k].std(correction=0).item()
        if not scale > 0:
            raise UserError(f"condition: {name} is the same in all training data")
        found.append(Column(name, "numeric", mean=values[:, k].mean().item(), scale=scale))
    return found


def _label_column(dataset: Dataset) -> Column:
    labels = dataset.train.labels
    if labels is None:
        raise UserError(f"condition: {dataset.name} has no labels")
    if labels.is_floating_point():
        values = labels[~labels.isnan()]
        scale = values.std(correction=0).item() if len(values) else 0.0
        if not scale > 0:
            raise UserError(f"condition: the labels of {dataset.name} are all the same")
        return Column("label", "numeric", mean=values.mean().item(), scale=scale)
    numbers = labels[labels >= 0].unique().tolist()
    if len(numbers) < 2:
        raise UserError(
            f"condition: expected labels of at least two classes in the training data of "
            f"{dataset.name}, got {len(numbers)}"
        )
    return Column("label", "categorical", tuple(_name(dataset, number) for number in numbers))


def _name(dataset: Dataset, number: int) -> str:
    names = dataset.label_names
    return names[number] if names is not None and number < len(names) else str(number)


def _keeping(split: Split, labelled: int, columns: Sequence[Column]) -> Split:
    labels, classes = split.labels, classes_of(columns)
    if labels is None or classes is None or labels.is_floating_point():
        raise UserError("labelled: expected labels that are classes, got quantities")
    if labelled % len(classes):
        raise UserError(
            f"labelled: expected a multiple of the {len(classes)} classes, as many of each, "
            f"got {labelled}"
        )
    kept = torch.full_like(labels, _UNLABELLED)
    for number in labels[labels >= 0].unique():
        first = (labels == number).nonzero().flatten()[: labelled // len(classes)]
        if len(first) < labelled // len(classes):
            raise UserError(
                f"labelled: expected at most {len(first)} of each class, got {labelled} for "
                f"{len(classes)} classes"
            )
        kept[first] = number
    return replace(split, labels=kept)


def _conditions(
    split: Split, columns: Sequence[Column], dataset: Dataset, name: str
) -> Tensor | None:
    labels = split.labels
    if labels is None:
        return None
    if labels.is_floating_point():
        missing = labels.isnan().numpy()
        values = labels.double().nan_to_num(0.0).numpy()
    else:
        missing = (labels < 0).numpy()
        numbers, place = labels.clamp(min=0).unique(return_inverse=True)
        values = np.array([_name(dataset, n) for n in numbers.tolist()], object)[place.numpy()]
    raw = RawColumn(values, missing)
    where = f"{dataset.name}: {name} labels"
    table = {columns[0].name: raw}
    return torch.from_numpy(encode_table(columns, table, where, gaps=True))


def _encoded(given: Any, C: int) -> Tensor | None:
    """What is encoded already: floats of two dimensions, C in the last."""
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        given = torch.from_numpy(given)
    if not (isinstance(given, Tensor) and given.is_floating_point() and given.dim() == 2):
        return None
    if given.shape[1] != C:
        raise UserError(f"condition: expected {C} numbers for each datum, got {given.shape[1]}")
    return given.to(torch.float32) if given.dtype != torch.float64 else given


def _as_mapping(columns: Sequence[Column], given: Any) -> dict[str, Any]:
    names = [column.name for column in columns]
    if isinstance(given, Mapping):
        for name in given:
            if name not in names:
                raise UserError(f"condition: expected {_named(columns)}, got {shown(name)}")
        for name in names:
            if name not in given:
                raise UserError(f"condition: expected {_named(columns)}, got no {name!r}")
        return dict(given)
    if len(names) > 1:
        raise UserError(
            f"condition: expected a value for each of {_named(columns)}, as NAME=VALUE, "
            f"got {shown(given)}"
        )
    return {names[0]: given}


def _raw(name: str, given: Any, categories: Sequence[str]) -> RawColumn:
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    values = np.atleast_1d(np.asarray(given))
    if values.ndim != 1 or values.size == 0:
        raise UserError(f"condition: {name}: expected one value a datum, got shape {values.shape}")
    if values.dtype.kind == "b" and {"false", "true"} & set(categories):
        values = np.where(values, "true", "false")
    if values.dtype.kind in "iufb":
        values = values.astype(np.float64)
        return RawColumn(values, np.isnan(values))
    texts = np.array([str(value) for value in values.tolist()], object)
    numbers = [_number(text) for text in texts]
    named = set(texts.tolist()) <= set(categories)  # a class may be called 007
    if not named and all(number is not None for number in numbers):
        return RawColumn(np.array(numbers, np.float64), np.zeros(len(texts), bool))
    return RawColumn(texts, np.zeros(len(texts), bool))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _repeated(name: str, column: RawColumn, count: int) -> RawColumn:
    if len(column) == count:
        return column
    if len(column) != 1:
        raise UserError(f"condition: {name}: expected {count} values, got {len(column)}")
    return column[np.zeros(count, np.int64)]


def _named(columns: Sequence[Column]) -> str:
    about = []
    for column in columns:
        values = ", ".join(column.categories[:20])
        about.append(f"{column.name} (one of {values})" if values else column.name)
    return ", ".join(about)

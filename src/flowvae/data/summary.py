"""A data set in a few lines of text."""

from __future__ import annotations

from flowvae.data.columns import Column, condition_in_words
from flowvae.data.dataset import Dataset
from flowvae.data.rows import FileRows
from flowvae.errors import printable

__all__ = ["conditions_and_gaps", "summary"]

_MOST_COLUMNS = 40
_ROWS_AT_ONCE = 1000


def summary(dataset: Dataset) -> str:
    """Splits, shape, range, labels, columns, notes: what ``flowvae data`` prints.

    Examples:
        >>> import numpy as np
        >>> print(summary(Dataset.from_arrays(np.ones((6, 8, 5)), np.zeros((2, 8, 5)))))
        arrays
          data         (8, 5), binary, 0 to 1
          splits       train 6, test 2; as the data gives them
    """
    found, about = dataset.statistics, [str(dataset.data_shape)]
    if dataset.columns is not None:
        about.append(f"a table of {len(dataset.columns)} columns, encoded")
    if found.binary:
        about.append("binary")
    elif found.eight_bit:
        about.append("8-bit")
    elif found.integer:
        about.append("whole numbers")
    about.append(f"{found.low:g} to {found.high:g}")
    if isinstance(dataset.train.data, FileRows):
        about.append("read from the file as needed")
    lines = [("data", ", ".join(about)), ("splits", _splits(dataset))]
    if dataset.train.labels is not None:
        lines.append(("labels", _labels(dataset)))
    if also := conditions_and_gaps(dataset):
        lines.append(("beside", "; ".join(also)))
    columns = dataset.columns or ()
    lines += [("column", _column(column)) for column in columns[:_MOST_COLUMNS]]
    if len(columns) > _MOST_COLUMNS:
        lines.append(("", f"and {len(columns) - _MOST_COLUMNS} more"))
    lines += [("note", note) for note in dataset.notes]
    shown = [dataset.name, *(f"  {name:<12} {text}" for name, text in lines)]
    return "\n".join(printable(line) for line in shown)


def conditions_and_gaps(dataset: Dataset) -> list[str]:
    """What is beside the values, and what lacks of them: nothing of most data.

    Examples:
        >>> import numpy as np
        >>> x = np.array([[1.0, np.nan], [3.0, 4.0]])
        >>> conditions_and_gaps(Dataset.from_arrays(x, x, missing=True))
        ['25.0% of the values missing']
    """
    found, train = [], dataset.train
    if dataset.condition is not None:
        found.append(f"conditioned on {printable(condition_in_words(dataset.condition))}")
    if train.condition is not None:
        known = int((~train.condition.isnan().any(1)).sum())
        if known < len(train):
            found.append(f"{known:,} of {len(train):,} train data labelled")
    if any(split.has_missing for split in dataset.splits.values()):
        found.append(f"{_missing_share(dataset):.1%} of the values missing")
    return found


def _missing_share(dataset: Dataset) -> float:
    missing = count = 0
    for split in dataset.splits.values():
        for start in range(0, len(split), _ROWS_AT_ONCE):
            part = split.data[start : start + _ROWS_AT_ONCE]
            missing += int(part.isnan().sum())
            count += part.numel()
    return missing / count


def _splits(dataset: Dataset) -> str:
    counts = ", ".join(f"{name} {len(split):,}" for name, split in dataset.splits.items())
    if "seed" not in dataset.record:
        return f"{counts}; as the data gives them"
    return f"{counts}; by seed {dataset.record['seed']}"


def _labels(dataset: Dataset) -> str:
    if dataset.label_names is not None:
        return _some(dataset.label_names)
    labels = dataset.train.labels
    if labels is None or labels.is_floating_point():
        return "quantities"
    known = labels[labels >= 0] if len(labels) else labels
    if not len(known):
        return "none is known"
    return f"whole numbers, {int(known.min())} to {int(known.max())}"


def _column(column: Column) -> str:
    if column.kind == "numeric":
        return f"{column.name}: numeric, mean {column.mean:.4g}, deviation {column.scale:.4g}"
    return f"{column.name}: {column.kind}, {_some(column.categories)}"


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown}, … ({len(names)} in all)" if len(names) > 10 else shown

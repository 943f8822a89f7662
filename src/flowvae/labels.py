"""Labels as scikit-learn's users give them: which rows have one, and as plain values."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

__all__ = ["known_labels", "labels_from_json", "labels_to_json"]


def known_labels(y: Any, marker: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """The labels that there are, and which rows have one, (N,).

    Args:
        y: labels, (N,).
        marker: what a row without a label has, such as -1 or NaN; None marks one in any case.

    Examples:
        >>> known_labels([3, -1, 5], -1)
        (array([3, 5]), array([ True, False,  True]))
        >>> known_labels(np.array([1.0, np.nan]), np.nan)[0], known_labels(["a", None])[0].tolist()
        (array([1.]), ['a'])
    """
    as_given = np.asarray(y, dtype=object) if isinstance(y, list | tuple) else np.asarray(y)
    values = as_given.astype(object).ravel()
    nan = isinstance(marker, float | np.floating) and bool(np.isnan(marker))
    known = np.array([not _is_marker(value, marker, nan) for value in values], bool)
    labels = as_given.ravel()[known]
    # What is left of objects may be numbers, or texts.
    return (np.array(labels.tolist()) if labels.dtype == object else labels), known


def _is_marker(value: Any, marker: Any, nan: bool) -> bool:
    if value is None:
        return True
    if nan:
        return isinstance(value, float | np.floating) and bool(np.isnan(value))
    if marker is None or isinstance(value, str) != isinstance(marker, str):
        return False
    return bool(value == marker)


def labels_to_json(classes: np.ndarray) -> dict[str, Any]:
    """Plain values and their type, for the header of a file.

    Examples:
        >>> labels_from_json(labels_to_json(np.array(["cat", "dog"]))).tolist()
        ['cat', 'dog']
    """
    return {"dtype": classes.dtype.str, "values": classes.tolist()}


def labels_from_json(fields: Any) -> np.ndarray:
    """The inverse of :func:`labels_to_json`.

    Raises:
        ValueError: it is none of numbers, truth values and texts.
    """
    dtype, values = fields["dtype"], fields["values"]
    if not (isinstance(dtype, str) and re.fullmatch(r"[<>|=]?([biufU]\d{1,4}|O)", dtype)):
        raise ValueError(f"dtype: expected numbers or texts, got {dtype!r}")
    if not all(isinstance(value, bool | int | float | str) for value in values):
        raise ValueError("values: expected numbers or texts")
    return np.array(values, dtype=np.dtype(dtype))

"""Conditions as a person writes and reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flowvae.data.columns import Column, encoded_slices
from flowvae.data.conditions import class_rows, classes_of, encode_condition
from flowvae.data.tables import decode_table
from flowvae.errors import UserError, shown

__all__ = ["condition_from_text", "condition_texts", "conditions_in_turn"]


def condition_from_text(columns: Sequence[Column] | None, text: str) -> Any:
    """What ``--condition`` says, for :func:`flowvae.data.conditions.encode_condition`.

    Args:
        columns: of the model.
        text: the value of the only column, or ``NAME=VALUE`` for each, with commas between.

    Raises:
        UserError: the model has no condition, a name is unknown or comes twice, or the text is no
            ``NAME=VALUE`` where there are several columns.

    Examples:
        >>> condition_from_text([Column("label", "categorical", ("cat", "dog"))], "dog")
        'dog'
        >>> table = [Column("age", "numeric"), Column("sex", "binary", ("female", "male"))]
        >>> condition_from_text(table, "age=40,sex=male")
        {'age': '40', 'sex': 'male'}
    """
    if columns is None:
        encode_condition(columns, text)  # says that the model has none
        return None
    first = columns[0]
    if len(columns) == 1 and (text in first.categories or not text.startswith(f"{first.name}=")):
        return text
    found: dict[str, str] = {}
    # A value may hold a comma; what follows one is a name only where = comes after it.
    for part in re.split(r",(?=[^,=]*=)", text):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            expected = ",".join(f"{column.name}=VALUE" for column in columns)
            raise UserError(f"condition: expected {expected}, got {shown(text)}")
        if name in found:
            raise UserError(f"condition: expected one value for {name}, got two in {shown(text)}")
        found[name] = value
    return found


def condition_texts(columns: Sequence[Column], condition: Tensor) -> list[str]:
    """Encoded conditions (N, C), as a person reads them; ``?`` is a value that is not known.

    Examples:
        >>> table = [Column("age", "numeric", mean=40.0, scale=10.0),
        ...          Column("sex", "binary", ("female", "male"))]
        >>> condition_texts(table, torch.tensor([[1.0, 0.0], [torch.nan, 1.0]]))
        ['age=50, sex=female', 'age=?, sex=male']
    """
    rows = condition.detach().cpu()
    unknown = [rows[:, place].isnan().any(1).tolist() for place in encoded_slices(columns)]
    table = decode_table(columns, rows.nan_to_num(0.0).numpy())
    single = classes_of(columns) is not None
    found = []
    for row in range(len(rows)):
        values = []
        for column, gaps in zip(columns, unknown, strict=True):
            value = table[column.name][row]
            text = "?" if gaps[row] else value if isinstance(value, str) else f"{value:.4g}"
            values.append(text if single else f"{column.name}={text}")
        found.append(", ".join(values))
    return found


def conditions_in_turn(
    columns: Sequence[Column], count: int, data: Callable[[], Tensor | None]
) -> Tensor:
    """Encoded conditions for ``count`` draws, (count, C), where none is asked for.

    Args:
        columns: of the model.
        count: how many.
        data: gives the conditions (N, C) of data, called where there are no classes.

    Returns:
        The classes in turn; or what is known of the data's, in turn.
    """
    rows = class_rows(columns) if classes_of(columns) is not None else data()
    known = None if rows is None else rows[~rows.isnan().any(1)]
    if known is None or not len(known):
        return encode_condition(columns, None)  # says what is expected
    return known[torch.arange(count) % len(known)]

"""The shapes in which a model takes data: rows of values and of a condition beside them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.data.columns import encoded_width
from flowvae.data.conditions import encode_condition

if TYPE_CHECKING:
    from flowvae.data.columns import Column

__all__ = ["RowShapes"]


class RowShapes:
    """Of a model of P values, and of a condition of C numbers beside them: rows are (..., P + C).

    ``data_shape`` is the shape of a datum, ``condition`` what the C numbers mean; none where there
    is no condition.
    """

    data_shape: tuple[int, ...]
    condition: tuple[Column, ...] | None

    @property
    def data_dim(self) -> int:
        """P, the number of values in one datum."""
        return math.prod(self.data_shape)

    @property
    def condition_dim(self) -> int:
        """C, the numbers of the condition; 0 where there is none."""
        return 0 if self.condition is None else encoded_width(self.condition)

    @property
    def row_dim(self) -> int:
        """P + C, the width of the rows that the methods take."""
        return self.data_dim + self.condition_dim

    def flatten(self, x: Tensor) -> Float[Tensor, "*batch R"]:
        """X as rows (..., P), from (..., P) or (..., *data_shape); (..., P + C) as they are."""
        C, P, n = self.condition_dim, self.data_dim, len(self.data_shape)
        if C:
            if x.dim() >= 1 and x.shape[-1] == P + C:
                return x
            raise ValueError(
                f"x: expected a condition beside it, or rows (..., {P} + {C}) of values and "
                f"condition, got {tuple(x.shape)}"
            )
        # First, for data of shape (1, W) ends in P both ways.
        if x.dim() > n and tuple(x.shape[-n:]) == self.data_shape:
            return x.flatten(-n)
        # Before the whole shape is compared: an exported program must not depend on what B is.
        if x.dim() >= 1 and x.shape[-1] == P:
            return x
        if x.dim() == n and tuple(x.shape) == self.data_shape:
            return x.flatten(-n)
        raise ValueError(
            f"x: expected shape (..., {P}) or (..., {', '.join(map(str, self.data_shape))}), "
            f"got {tuple(x.shape)}"
        )

    def rows(self, x: Tensor, condition: Any = None) -> Float[Tensor, "*batch R"]:
        """Data and condition side by side, (..., P + C): what every method takes as x.

        Args:
            x: (..., P) or (..., *data_shape); with no condition given, rows already.
            condition: a class, or one for each datum; of several columns a mapping from their
                names to such; or numbers (N, C), encoded.

        Raises:
            UserError: the model has no condition, a class is unknown, or a shape is wrong.
        """
        if condition is None:
            return self.flatten(x)
        n = len(self.data_shape)
        shaped = x.dim() >= n and tuple(x.shape[-n:]) == self.data_shape
        values = x.flatten(-n) if shaped else x
        if values.shape[-1] != self.data_dim:
            raise ValueError(f"x: expected (..., {self.data_dim}), got {tuple(x.shape)}")
        lead = values.shape[:-1]
        given = encode_condition(self.condition, condition, math.prod(lead))
        return torch.cat([values, given.to(values).reshape(*lead, -1)], -1)

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Values (..., P) and condition (..., C) of rows; none where there is no condition."""
        if self.condition is None:
            return rows, None
        values, condition = rows.split([self.data_dim, self.condition_dim], -1)
        return values, condition

    def is_rows(self, x: Tensor) -> bool:
        """Whether x has its condition beside it already."""
        return self.condition_dim > 0 and x.shape[-1] == self.data_dim + self.condition_dim

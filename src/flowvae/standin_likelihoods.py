"""Stand-ins for `gaussian` and `mixed` until branch `families` is merged: delete then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributions, nn
from torch.nn import functional

from flowvae.data.columns import Column, encoded_slices, encoded_width

if TYPE_CHECKING:
    from flowvae.config import Config

__all__ = ["Gaussian", "Mixed"]

_LEAST_LOG_SCALE = -4.0


class Gaussian(nn.Module):
    """N(m, σ²) for each value; m and σ from the decoder."""

    outputs_per_dim = 2

    @classmethod
    def from_config(cls, config: Config) -> Gaussian:
        del config
        return cls()

    def forward(self, outputs: Tensor) -> distributions.Independent:
        mean, log_scale = outputs.chunk(2, -1)
        scale = (_LEAST_LOG_SCALE + functional.softplus(log_scale - _LEAST_LOG_SCALE)).exp()
        normal = distributions.Normal(mean, scale, validate_args=False)
        return distributions.Independent(normal, 1, validate_args=False)


class Mixed(nn.Module):
    """Gaussian numeric, Bernoulli binary and categorical columns of a table."""

    outputs_per_dim = 2

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.columns = tuple(columns)

    @classmethod
    def from_config(cls, config: Config, columns: Sequence[Column]) -> Mixed:
        del config
        return cls(columns)

    def forward(self, outputs: Tensor) -> distributions.Independent:
        row = _Row(self.columns, outputs)
        return distributions.Independent(row, 0, validate_args=False)


class _Row(distributions.Distribution):
    arg_constraints = {}  # pyright: ignore

    def __init__(self, columns: tuple[Column, ...], outputs: Tensor) -> None:
        self.columns = columns
        self.first, self.second = outputs.chunk(2, -1)
        event = torch.Size([encoded_width(columns)])
        super().__init__(outputs.shape[:-1], event, validate_args=False)

    @property
    def mean(self) -> Tensor:
        parts = []
        for column, place in zip(self.columns, encoded_slices(self.columns), strict=True):
            a = self.first[..., place]
            numeric, binary = column.kind == "numeric", column.kind == "binary"
            parts.append(a if numeric else a.sigmoid() if binary else a.softmax(-1))
        return torch.cat(parts, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        total = torch.zeros(())
        for column, place in zip(self.columns, encoded_slices(self.columns), strict=True):
            a, b, x = self.first[..., place], self.second[..., place], value[..., place]
            if column.kind == "numeric":
                scale = (_LEAST_LOG_SCALE + functional.softplus(b - _LEAST_LOG_SCALE)).exp()
                found = distributions.Normal(a, scale, validate_args=False).log_prob(x)
            elif column.kind == "binary":
                found = x * a - functional.softplus(a)
            else:
                found = x * a.log_softmax(-1)
            total = total + found.sum(-1)
        return total

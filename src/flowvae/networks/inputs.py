"""What an encoder is given of a datum beside its values: which are there, and the condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvae.networks.images import ImageShape, ToImages
from flowvae.networks.mlp import MLP

__all__ = ["RowDecoder", "RowEncoder", "encoder_shape", "pairs"]


def encoder_shape(
    data_shape: Sequence[int], condition_dim: int, missing: bool, images: bool, network: str
) -> Any:
    """The shape of what an encoder's body is given, for data of this shape.

    Args:
        data_shape: of a datum.
        condition_dim: C.
        missing: whether values may be missing: then which are there is given, too.
        images: whether the network takes images, of which each of these is further channels;
            else all of it is one vector.
        network: its name, for messages.
    """
    if not images:
        P = math.prod(data_shape)
        return (P * (1 + missing) + condition_dim,)
    shape = ImageShape.of(data_shape, network)
    channels = shape.channels * (1 + missing) + condition_dim
    return ImageShape(channels, shape.height, shape.width)


def pairs(
    values: Float[Tensor, "B P"], conditions: Float[Tensor, "K C"]
) -> Float[Tensor, "B*K P+C"]:
    """Rows of every datum beside every condition, the condition the faster.

    Examples:
        >>> pairs(torch.tensor([[7.0], [8.0]]), torch.eye(2))
        tensor([[7., 1., 0.],
                [7., 0., 1.],
                [8., 1., 0.],
                [8., 0., 1.]])
    """
    B, K = len(values), len(conditions)
    both = [values[:, None].expand(B, K, -1), conditions.expand(B, K, -1)]
    return torch.cat(both, -1).flatten(0, 1)


class RowEncoder(nn.Module):
    """Rows (B, P + C) -> features, by a body that is given values, their mask and the condition.

    A value that is missing is NaN in the row; the body is given zero in its place, and a mask that
    is 1 where a value is there.

    Args:
        body: of what :func:`encoder_shape` says.
        data_shape: of a datum.
        condition_dim: C.
        missing: whether values may be missing.
        images: whether the body takes images.
        transform: what is given instead of each value; none is the value itself.
    """

    def __init__(
        self,
        body: nn.Module,
        data_shape: Sequence[int],
        condition_dim: int,
        missing: bool,
        images: bool,
        transform: Callable[[Tensor], Tensor] | None,
    ) -> None:
        super().__init__()
        self.body, self.transform = body, transform
        self.data_dim, self.condition_dim = math.prod(data_shape), condition_dim
        self.missing = missing
        self.to_images = ToImages(ImageShape.of(data_shape, "encoder")) if images else None

    def forward(self, rows: Float[Tensor, "B R"]) -> Float[Tensor, "B H"]:
        values, condition = rows.split([self.data_dim, rows.shape[-1] - self.data_dim], -1)
        parts = self._given(values)
        if self.to_images is None:
            return self.body(torch.cat([*parts, condition], -1))
        shape = self.to_images.shape
        planes = [self.to_images(part) for part in parts]
        planes.append(condition[..., None, None].expand(-1, -1, shape.height, shape.width))
        return self.body(torch.cat(planes, 1).flatten(1))

    def of_pairs(
        self, values: Float[Tensor, "B P"], conditions: Float[Tensor, "K C"]
    ) -> Float[Tensor, "B K H"]:
        """The features of every datum under every condition, x read once where the body can."""
        if isinstance(self.body, MLP):
            return self.body.of_pairs(torch.cat(self._given(values), -1), conditions)
        return self(pairs(values, conditions)).unflatten(0, (len(values), len(conditions)))

    def _given(self, values: Tensor) -> list[Tensor]:
        """Values, transformed, and their mask if some may be missing."""
        parts = []
        if self.missing:
            there = ~values.isnan()
            values = torch.where(there, values, 0.0)  # before the transform: no NaN in gradients
            parts.append(there.to(values.dtype))
        if self.transform is not None:
            values = self.transform(values)
        return [values, *parts]


class RowDecoder(nn.Module):
    """(..., D + C) -> outputs of a body that sees z and the condition, and an affine part of the
    condition alone: what is the same in all data of a class need not pass the body.

    Args:
        body: (..., D + C) -> (..., num_outputs).
        condition_dim: C.
        num_outputs: of the likelihood's parameters.
    """

    def __init__(self, body: nn.Module, condition_dim: int, num_outputs: int) -> None:
        super().__init__()
        self.condition_dim = condition_dim
        self.direct = nn.Linear(condition_dim, num_outputs, bias=False)
        nn.init.zeros_(self.direct.weight)
        self.body = body  # last, and with it the layer whose bias may start at the data's mean

    def forward(self, both: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        return self.body(both) + self.direct(both[..., -self.condition_dim :])

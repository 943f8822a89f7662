"""What convolutional networks share: flat data to images and back, sizes under strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvae.errors import UserError

__all__ = ["FromImages", "ImageShape", "OutputBias", "ToImages", "halved"]

_MOST_CHANNELS = 4


@dataclass(frozen=True)
class ImageShape:
    """Images of C channels, height H and width W.

    Args:
        channels: C.
        height: H.
        width: W.
        channels_last: data is (H, W, C) rather than (C, H, W).
    """

    channels: int
    height: int
    width: int
    channels_last: bool = False

    @classmethod
    def of(cls, data_shape: Sequence[int] | ImageShape, network: str) -> ImageShape:
        """Of data (H, W), (C, H, W), or (H, W, C) where C alone can be a number of channels.

        Raises:
            UserError: data of this shape is no image.
        """
        if isinstance(data_shape, ImageShape):
            return data_shape
        if len(data_shape) == 2:
            return cls(1, data_shape[0], data_shape[1])
        if len(data_shape) == 3:
            last = data_shape[2] <= _MOST_CHANNELS < data_shape[0]
            C, H, W = (data_shape[2], *data_shape[:2]) if last else data_shape
            return cls(C, H, W, last)
        raise UserError(
            f"network: {network} expects images (H, W), (C, H, W) or (H, W, C), got data of shape "
            f"{tuple(data_shape)}; mlp takes any shape"
        )


class ToImages(nn.Module):
    """(B, P) -> (B, C, H, W)."""

    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Float[Tensor, "B P"]) -> Float[Tensor, "B C H W"]:
        s = self.shape
        if s.channels_last:
            return x.unflatten(-1, (s.height, s.width, s.channels)).permute(0, 3, 1, 2)
        return x.unflatten(-1, (s.channels, s.height, s.width))


class FromImages(nn.Module):
    """(B, n C, H, W) -> (B, n P): n blocks of data."""

    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Float[Tensor, "B nC H W"]) -> Float[Tensor, "B nP"]:
        if self.shape.channels_last:
            x = x.unflatten(1, (-1, self.shape.channels)).permute(0, 1, 3, 4, 2)
        return x.flatten(1)


class OutputBias(nn.Module):
    """One offset for every output: what is the same in all data need not pass the network."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, x: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch N"]:
        return x + self.bias


def halved(size: int) -> int:
    """A side after a convolution of stride 2."""
    return (size + 1) // 2


class Flat(nn.Module):
    """Applies a module of (B, I) to (..., I)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, z: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        out = self.module(z.reshape(-1, z.shape[-1]))
        return out.reshape(*z.shape[:-1], out.shape[-1])

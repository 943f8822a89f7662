"""Residual networks (He et al. 2016, arXiv 1603.05027), without normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvae.config.options import Widths
from flowvae.networks.images import (
    Flat,
    FromImages,
    ImageShape,
    OutputBias,
    ToImages,
    halved,
)
from flowvae.networks.mlp import ACTIVATIONS, Activation

__all__ = ["ResNet"]

_CHANNELS = (32, 64, 128)


class ResNet(nn.Module):
    """One residual block per resolution, each resolution half of the one before.

    A block is x + conv(act(conv(act(x)))), 3 × 3, its last convolution started small in place of
    a normalisation: batch statistics would make a datum's ELBO depend on its batch. The decoder
    mirrors the encoder, with nearest neighbours to double a side.

    Args:
        shape: of the images.
        channels: at each resolution; 32, 64, 128 if not configured.
        out_features: H, the last of ``hidden_dims``.
        activation: a name in ``ACTIVATIONS``.

    Source: "Identity Mappings in Deep Residual Networks", arXiv 1603.05027.

    Examples:
        >>> import torch, flowvae
        >>> config = flowvae.Config(network="resnet", channels=(4, 8), hidden_dims=(16,))
        >>> flowvae.build_vae(config, (3, 9, 7)).elbo(torch.rand(2, 3, 9, 7)).shape
        torch.Size([2])
    """

    takes_images = True

    def __init__(
        self,
        shape: ImageShape,
        channels: Sequence[int],
        out_features: int,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.out_features = out_features
        layers: list[nn.Module] = [ToImages(shape)]
        before, (height, width) = shape.channels, (shape.height, shape.width)
        for n, after in enumerate(channels):
            layers += [nn.Conv2d(before, after, 3, 2 if n else 1, 1), _Block(after, activation)]
            if n:
                height, width = halved(height), halved(width)
            before = after
        layers += [ACTIVATIONS[activation](), nn.Flatten()]
        layers += [nn.Linear(before * height * width, out_features), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)

    @classmethod
    def encoder(
        cls,
        data_shape: Sequence[int] | ImageShape,
        hidden_dims: Widths = (500,),
        channels: Widths = _CHANNELS,
        activation: Activation = "relu",
    ) -> ResNet:
        """From images.

        Args:
            data_shape: of an image.
            hidden_dims: width of the layer after the convolutions; of several the last.
            channels: at each resolution of the encoder; the decoder's in reverse.
            activation: of the hidden layers.
        """
        return cls(ImageShape.of(data_shape, "resnet"), channels, hidden_dims[-1], activation)

    @classmethod
    def decoder(
        cls,
        latent_dim: int,
        data_shape: Sequence[int],
        num_outputs: int,
        channels: Widths = _CHANNELS,
        activation: Activation = "relu",
    ) -> nn.Sequential:
        """The encoder's resolutions in reverse, and an offset for every output."""
        shape = ImageShape.of(data_shape, "resnet")
        sizes = [(shape.height, shape.width)]
        for _ in channels[1:]:
            sizes.append((halved(sizes[-1][0]), halved(sizes[-1][1])))
        height, width = sizes[-1]
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, channels[-1] * height * width),
            nn.Unflatten(1, (channels[-1], height, width)),
            _Block(channels[-1], activation),
        ]
        for n in range(len(channels) - 2, -1, -1):
            convolution = nn.Conv2d(channels[n + 1], channels[n], 3, 1, 1)
            layers += [_Doubled(*sizes[n]), convolution, _Block(channels[n], activation)]
        outputs = num_outputs // (shape.height * shape.width)
        layers += [ACTIVATIONS[activation](), nn.Conv2d(channels[0], outputs, 3, 1, 1, bias=False)]
        layers.append(FromImages(shape))
        return nn.Sequential(Flat(nn.Sequential(*layers)), OutputBias(num_outputs))

    def forward(self, x: Float[Tensor, "B P"]) -> Float[Tensor, "B H"]:
        return self.layers(x)


class _Block(nn.Module):
    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        act = ACTIVATIONS[activation]
        last = nn.Conv2d(channels, channels, 3, 1, 1)
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.mul_(0.1)
        first = nn.Conv2d(channels, channels, 3, 1, 1)
        self.layers = nn.Sequential(act(), first, act(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class _Doubled(nn.Module):
    """Twice the size by nearest neighbours, cut to (height, width)."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        return x[..., : self.height, : self.width]

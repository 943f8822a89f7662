"""Gated convolutions, after van den Berg et al. 2018 (arXiv 1803.05649)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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

__all__ = ["GatedConv"]

_CHANNELS = (32, 32, 64, 64, 64)
_KERNEL = 5


class GatedConv(nn.Module):
    """Gated 5 × 5 convolutions, every second of stride 2, then a gated layer on all that is left.

    A gated layer is (W x + c) ⊙ sigmoid(V x + d). The paper's encoder on 28 × 28 images is the
    default: channels 32, 32, 64, 64, 64, and a last convolution as large as the 7 × 7 map, whose
    width here is the last of ``hidden_dims`` (256 in the paper). The decoder mirrors it with
    transposed convolutions. Any image size and number of channels.

    Args:
        shape: of the images.
        channels: of the convolutions.
        out_features: H.

    Source: "Sylvester Normalizing Flows for Variational Inference", arXiv 1803.05649.

    Examples:
        >>> import torch, flowvae
        >>> config = flowvae.Config(network="gated_conv", channels=(4, 8), hidden_dims=(16,))
        >>> flowvae.build_vae(config, (3, 9, 7)).elbo(torch.rand(2, 3, 9, 7)).shape
        torch.Size([2])
    """

    takes_images = True

    def __init__(self, shape: ImageShape, channels: Sequence[int], out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        layers: list[nn.Module] = [ToImages(shape)]
        height, width = shape.height, shape.width
        for n, (before, after) in enumerate(pairwise([shape.channels, *channels])):
            stride = _stride(n)
            layers += [nn.Conv2d(before, 2 * after, _KERNEL, stride, _KERNEL // 2), nn.GLU(1)]
            if stride == 2:
                height, width = halved(height), halved(width)
        layers += [nn.Flatten(), nn.Linear(channels[-1] * height * width, 2 * out_features)]
        self.layers = nn.Sequential(*layers, nn.GLU())

    @classmethod
    def encoder(
        cls,
        data_shape: Sequence[int] | ImageShape,
        hidden_dims: Widths = (500,),
        channels: Widths = _CHANNELS,
    ) -> GatedConv:
        """From images.

        Args:
            data_shape: of an image.
            hidden_dims: width of the layer after the convolutions; of several the last.
            channels: of the encoder's convolutions; the decoder's in reverse.
        """
        return cls(ImageShape.of(data_shape, "gated_conv"), channels, hidden_dims[-1])

    @classmethod
    def decoder(
        cls,
        latent_dim: int,
        data_shape: Sequence[int],
        num_outputs: int,
        channels: Widths = _CHANNELS,
    ) -> nn.Sequential:
        """The encoder's layers in reverse, a 1 × 1 convolution and an offset for every output."""
        shape = ImageShape.of(data_shape, "gated_conv")
        sizes = [(shape.height, shape.width)]
        for n in range(len(channels)):
            height, width = sizes[-1]
            sizes.append((halved(height), halved(width)) if _stride(n) == 2 else (height, width))
        height, width = sizes[-1]
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, 2 * channels[-1] * height * width),
            nn.GLU(),
            nn.Unflatten(1, (channels[-1], height, width)),
        ]
        for n in range(len(channels) - 1, -1, -1):
            before, after = channels[n], channels[max(n - 1, 0)]
            stride, (height, width) = _stride(n), sizes[n]
            # Twice the size after a stride of 2, or one less.
            padding = ((height - 1) % stride, (width - 1) % stride)
            layers += [
                nn.ConvTranspose2d(before, 2 * after, _KERNEL, stride, _KERNEL // 2, padding),
                nn.GLU(1),
            ]
        outputs = num_outputs // (shape.height * shape.width)
        layers += [nn.Conv2d(channels[0], outputs, 1, bias=False), FromImages(shape)]
        return nn.Sequential(Flat(nn.Sequential(*layers)), OutputBias(num_outputs))

    def forward(self, x: Float[Tensor, "B P"]) -> Float[Tensor, "B H"]:
        return self.layers(x)


def _stride(layer: int) -> int:
    return 1 + layer % 2

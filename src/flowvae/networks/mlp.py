"""Multilayer perceptrons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from flowvae.config import Config

__all__ = ["ACTIVATIONS", "MLP"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
}


class MLP(nn.Module):
    """h = activation(W x + c), or gated (W x + c) ⊙ sigmoid(V x + d), once per hidden layer.

    Args:
        in_features: width of the input.
        hidden_dims: widths of the hidden layers.
        activation: a name in ``ACTIVATIONS``.
        gated: gates in place of activations.

    Source: for the gates, "Language Modeling with Gated Convolutional Networks", arXiv 1612.08083.

    Examples:
        >>> import torch
        >>> MLP(784, [500])(torch.zeros(3, 784)).shape
        torch.Size([3, 500])
    """

    def __init__(
        self,
        in_features: int,
        hidden_dims: Sequence[int],
        activation: str = "relu",
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.out_features = hidden_dims[-1]
        layers: list[nn.Module] = []
        for before, after in pairwise([in_features, *hidden_dims]):
            if gated:
                layers += [nn.Linear(before, 2 * after), nn.GLU()]
            else:
                layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)

    @classmethod
    def encoder(cls, config: Config, data_shape: Sequence[int]) -> MLP:
        return cls(math.prod(data_shape), config.hidden_dims, config.activation, config.gated)

    @classmethod
    def decoder(cls, config: Config, data_shape: Sequence[int], num_outputs: int) -> nn.Sequential:
        """The encoder's widths in reverse, from z, and an affine layer."""
        del data_shape
        widths = config.hidden_dims[::-1]
        body = cls(config.latent_dim, widths, config.activation, config.gated)
        return nn.Sequential(body, nn.Linear(body.out_features, num_outputs))

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        return self.layers(x)

"""Multilayer perceptrons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear

from flowvae.config.options import Widths

__all__ = ["ACTIVATIONS", "MLP", "Activation"]

Activation = Literal["relu", "elu", "gelu", "silu", "tanh", "leaky_relu"]

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
    def encoder(
        cls,
        data_shape: Sequence[int],
        hidden_dims: Widths = (500,),
        activation: Activation = "relu",
        gated: bool = False,
    ) -> MLP:
        """From data.

        Args:
            data_shape: of a datum.
            hidden_dims: widths of the encoder's hidden layers.
            activation: of the hidden layers.
            gated: hidden layers are (Wx + c) · sigmoid(Vx + d), not activation(Wx + c).
        """
        return cls(math.prod(data_shape), hidden_dims, activation, gated)

    @classmethod
    def decoder(
        cls,
        latent_dim: int,
        num_outputs: int,
        hidden_dims: Widths = (500,),
        decoder_hidden_dims: Widths | None = None,
        activation: Activation = "relu",
        gated: bool = False,
        decoder_gain: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
    ) -> nn.Sequential:
        """From z, and an affine layer.

        Args:
            latent_dim: D.
            num_outputs: of the likelihood's parameters.
            hidden_dims: of the encoder.
            decoder_hidden_dims: widths of the decoder's hidden layers; the encoder's in reverse if
                not given.
            activation: of the hidden layers.
            gated: as in the encoder.
            decoder_gain: multiplies the initial weights and biases of the decoder's first layer.
                With few latent dimensions and a gain of 1 the decoder starts almost linear in z,
                and takes long to bend.
        """
        body = cls(latent_dim, decoder_hidden_dims or hidden_dims[::-1], activation, gated)
        with torch.no_grad():
            for parameter in body.layers[0].parameters():
                parameter.mul_(decoder_gain)
        return nn.Sequential(body, nn.Linear(body.out_features, num_outputs))

    def of_pairs(
        self, shared: Float[Tensor, "B I"], each: Float[Tensor, "K J"]
    ) -> Float[Tensor, "B K H"]:
        """What forward gives for every x beside every y, a row (I + J): W x once for all y."""
        first = self.layers[0]
        assert isinstance(first, nn.Linear)  # noqa: S101 - for type checkers
        of_shared, of_each = first.weight.split([shared.shape[-1], each.shape[-1]], 1)
        hidden = linear(shared, of_shared, first.bias)[:, None] + linear(each, of_each)
        return self.layers[1:](hidden)

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        return self.layers(x)

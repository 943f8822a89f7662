"""Bodies of encoder and decoder: a vector in, features out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from flowvae.config import Config

__all__ = ["MLP"]


class MLP(nn.Module):
    """h = relu(W x + c), once per entry of ``hidden_dims``.

    Examples:
        >>> import torch
        >>> MLP(784, [500])(torch.zeros(3, 784)).shape
        torch.Size([3, 500])
    """

    def __init__(self, in_features: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.out_features = hidden_dims[-1]
        layers: list[nn.Module] = []
        for before, after in pairwise([in_features, *hidden_dims]):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    @classmethod
    def encoder(cls, config: Config, data_dim: int) -> MLP:
        return cls(data_dim, config.hidden_dims)

    @classmethod
    def decoder(cls, config: Config) -> MLP:
        """The encoder's widths in reverse, from z."""
        return cls(config.latent_dim, config.hidden_dims[::-1])

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        return self.layers(x)

"""Priors p(z): each is a module that returns a distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from flowvae.distributions import DiagonalGaussian

if TYPE_CHECKING:
    from flowvae.config import Config

__all__ = ["StandardNormal"]


class StandardNormal(nn.Module):
    """p(z) = N(0, I) on R^D; log p(z) = -D/2 log 2π - ½ ‖z‖².

    Examples:
        >>> import torch
        >>> StandardNormal(latent_dim=2)().log_prob(torch.zeros(1, 2))
        tensor([-1.8379])
    """

    zeros: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    @classmethod
    def from_config(cls, config: Config) -> StandardNormal:
        return cls(config.latent_dim)

    def forward(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.zeros, self.zeros)

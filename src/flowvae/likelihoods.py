"""Likelihoods: decoder output -> p(x|z). Each is a module that returns a distribution over x."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, distributions, nn
from torch.nn import functional

if TYPE_CHECKING:
    from flowvae.config import Config

__all__ = ["Bernoulli"]


class Bernoulli(nn.Module):
    """Independent Bernoulli pixels from logits l:  log p(x|z) = Σ_i x_i l_i - softplus(l_i).

    Computed from logits, never through a sigmoid, so it is finite for every finite logit. On grey
    pixels x in (0, 1) the same formula is no density of anything: a *pseudo-likelihood*, to be
    called so and never to be compared with results on binary pixels.

    Examples:
        >>> import torch
        >>> p = Bernoulli()(torch.zeros(3, 784))
        >>> p.log_prob(torch.ones(3, 784))[0].item() / 784   # log ½ per pixel
        -0.693147...
    """

    support = (0.0, 1.0)
    outputs_per_dim = 1

    @classmethod
    def from_config(cls, config: Config) -> Bernoulli:
        del config  # it has no settings
        return cls()

    def forward(self, logits: Float[Tensor, "*batch P"]) -> distributions.Independent:
        # torch's Bernoulli takes its log_prob from binary_cross_entropy_with_logits; argument
        # checks are off because grey pixels are allowed (and checked once, when data is loaded).
        pixels = distributions.Bernoulli(logits=logits, validate_args=False)
        return distributions.Independent(pixels, 1, validate_args=False)

    def log_prob_table(
        self, logits: Float[Tensor, "G P"], x: Float[Tensor, "B P"]
    ) -> Float[Tensor, "B G"]:
        """Log p(x|z) of every x at every z, in nats, by one matrix product."""
        return x @ logits.T - functional.softplus(logits).sum(-1)

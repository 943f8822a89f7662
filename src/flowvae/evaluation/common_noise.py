"""Draws of z with the same noise for every datum, so that its result depends on no other."""

from __future__ import annotations

import torch
from torch import Tensor

from flowvae.errors import UserError
from flowvae.vae import VAE

__all__ = ["common_draws"]


def common_draws(model: VAE, x: Tensor, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """z ~ q(z|x), (S, B, D), and log q(z|x), (S, B), with the same noise for every row.

    Raises:
        UserError: the posterior does not say what its draw is at given noise.
    """
    q = model.posterior(x)
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(samples, 1, model.latent_dim, generator=generator).to(x)
    try:
        z, log_base, ladj = q.at_noise(eps.expand(samples, len(x), model.latent_dim))
    except NotImplementedError:
        raise UserError(
            f"posterior: expected a distribution with at_noise(eps), which gives every row the "
            f"same noise, got {type(q).__name__}"
        ) from None
    return z, log_base - ladj

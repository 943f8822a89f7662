"""Draws of z with the same noise for every datum, so that its result depends on no other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowvae.distributions import DiagonalGaussian
from flowvae.vae import VAE

__all__ = ["common_draws", "seeded_draws"]


def common_draws(model: VAE, x: Tensor, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """z ~ q(z|x), (S, B, D), and log q(z|x), (S, B), with the same noise for every row."""
    q = model.posterior(x)
    base = getattr(q, "base", q)
    if not isinstance(base, DiagonalGaussian):
        drawn = [seeded_draws(model, row, samples, seed) for row in x.split(1)]
        return torch.cat([z for z, _ in drawn], 1), torch.cat([log_q for _, log_q in drawn], 1)
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(samples, 1, model.latent_dim, generator=generator).to(x)
    z = base.loc + (0.5 * base.log_var).exp() * eps
    log_q = -0.5 * (eps.square() + base.log_var + math.log(2 * math.pi)).sum(-1)
    if q is base:
        return z, log_q
    z, ladj = q.flow(z)  # pyright: ignore[reportAttributeAccessIssue]
    return z, log_q - ladj


def seeded_draws(model: VAE, x: Tensor, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """The same for one datum x (1, P), whatever its posterior."""
    generator = torch.Generator(x.device).manual_seed(seed)
    return model.posterior(x).rsample_and_log_prob((samples,), generator)

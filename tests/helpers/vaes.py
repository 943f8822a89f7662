"""Small models whose answers are known."""

from __future__ import annotations

import torch

import flowvae
from flowvae.config import resolve_config
from tests.helpers.linear_gaussian import LinearGaussian


def small(K=3, D=2, shape=(4, 3), constraint="paper", seed=0, scale=1.0) -> flowvae.VAE:
    config = resolve_config(
        num_flows=K, latent_dim=D, constraint=constraint, hidden_dims=(16,), seed=seed
    )
    model = flowvae.build_vae(config, shape).double()
    with torch.no_grad():  # Fresh layers are nearly linear; make every part matter.
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def data(model: flowvae.VAE, count=6, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, model.data_dim, generator=generator, dtype=torch.float64)
    return (x > 0.5).double()


def bimodal(sigma: float = 0.1) -> flowvae.VAE:
    """x depends on |z₁|: two modes, of which q sees one."""
    model = LinearGaussian(D=2, P=4, sigma=sigma).model()

    class Even(torch.nn.Module):
        def forward(self, z):
            return torch.cat([z[..., :1].abs(), z[..., 1:]], -1)

    model.decoder = torch.nn.Sequential(Even(), model.decoder)
    return model

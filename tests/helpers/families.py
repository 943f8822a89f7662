"""A small model of every family, and its data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import flowvae
from flowvae.config import Config, build, layered
from flowvae.data.columns import Column
from flowvae.distributions import LatentDistribution

H = 6  # features


def where_they_have_it(**settings) -> Config:
    """Settings for many families at once: as in files of version 1, each takes what it knows."""
    return layered({"version": 1, **settings})


def needs(*families: object) -> None:
    """Skip the test where a package that one of these families is made of is not installed."""
    if "spline" in families:
        pytest.importorskip("zuko", reason="zuko is not installed")


def posterior(
    name: str, D=2, K=3, batch=4, scale=1.0, amortized=True, seed=0, dtype=torch.float64
) -> LatentDistribution:
    """q(z|x) of a fresh head for random features, everything it writes scaled up."""
    needs(name)
    config = where_they_have_it(
        posterior=name,
        latent_dim=D,
        num_flows=K,
        amortized=amortized,
        constraint="centred",
        num_orthogonal=2,
        num_householder=3,
        flow_hidden_dims=(16, 16),
    )
    torch.manual_seed(seed)
    head = build("posterior", config.model.posterior, in_features=H, latent_dim=D).to(dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(scale)
    return head(torch.randn(batch, H, dtype=dtype))


SMALL = {
    "hidden_dims": (8,),
    "flow_hidden_dims": (8,),
    "channels": (3, 4),
    "num_components": 5,
    "num_prior_flows": 2,
    "num_orthogonal": 2,
    "num_householder": 2,
    "num_mixtures": 2,
    "num_categories": 2,
    "constraint": "centred",
    "latent_dim": 3,
    "num_flows": 2,
}


TABLE = (
    Column("age", "numeric"),
    Column("colour", "categorical", ("a", "b", "c")),
    Column("smoker", "binary", ("no", "yes")),
    Column("weight", "numeric"),
)


def model(shape=(3, 2), dtype=torch.float64, **settings) -> flowvae.VAE:
    """A small model; a table's likelihood gets a table's shape."""
    needs(*settings.values())
    table = settings.get("likelihood") == "mixed"
    config = where_they_have_it(**{**SMALL, **settings})
    columns = TABLE if table else None
    return flowvae.build_vae(config, (6,) if table else shape, columns=columns).to(dtype)


def data(model: flowvae.VAE, count=5) -> Tensor:
    """Binary data, which lies in every support; of a table, one-hot where it must be."""
    x = (torch.rand(count, model.data_dim) > 0.5).to(next(model.parameters()).dtype)
    if model.columns is not None:
        x[:, 1:4] = torch.eye(3)[torch.randint(0, 3, (count,))].to(x)
    return x

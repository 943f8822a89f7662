"""Likelihoods with outputs at random, and sums over all they can give."""

from __future__ import annotations

import numpy as np
import torch
from torch.distributions import Distribution

from flowvae.config import build, resolve_config
from flowvae.data.columns import Column
from flowvae.likelihoods import Likelihood

P = 3


TABLE = (
    Column("age", "numeric"),
    Column("colour", "categorical", ("a", "b", "c")),
    Column("smoker", "binary", ("no", "yes")),
)


GREY = np.linspace(0, 1, 60, dtype=np.float32).reshape(10, 6)


def likelihood(name: str, **settings) -> tuple[Likelihood, int]:
    """It, and the number of values of a datum."""
    config = resolve_config(likelihood=name, **settings)
    width = 5 if name == "mixed" else P
    return build("likelihood", config.model.likelihood, columns=TABLE).double(), width


def at_random(name: str, scale=1.0, batch=(), seed=0, **settings) -> Distribution:
    made, width = likelihood(name, **settings)
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, made.num_outputs(width))
    return made(scale * torch.randn(shape, generator=generator, dtype=torch.float64))


def quadrature(low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss-Legendre on a thousand pieces: points and weights."""
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(12))
    edges = torch.linspace(low, high, 1001, dtype=torch.float64)
    half = (edges[1] - edges[0]) / 2
    points = (edges[:-1, None] + half * (1 + nodes)).flatten()
    return points, (half * weights).repeat(1000)


def real_line() -> tuple[torch.Tensor, torch.Tensor]:
    """Points and weights over ±5,000, dense near 0."""
    points, weights = quadrature(-9.2, 9.2)
    return points.sinh(), weights * points.cosh()

"""What a likelihood measures, and draws of every likelihood."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Column
from flowvae.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gaussian,
    MixedColumns,
    NegativeBinomial,
    Poisson,
    measure_of,
)
from flowvae.registry import LIKELIHOODS
from tests.helpers.making import seeded


def with_likelihood(name: str, D: int) -> tuple[flowvae.VAE, int]:
    P = D
    columns = None
    if name == "mixed":
        columns = [Column("a", "numeric"), Column("b", "binary", ("x", "y"))]
        P = 2
    settings = {"num_categories": 4} if name == "categorical" else {}
    config = resolve_config(likelihood=name, latent_dim=D, hidden_dims=(6,), **settings)
    return flowvae.build_vae(config, (P,), columns=columns).double().eval(), P


@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_moments_of_draws_are_the_models(name):
    """E x = E E[x|z], and Cov(x, z) = Cov(E[x|z], z): x's noise knows nothing of z. P = D."""
    model, P = with_likelihood(name, 2)
    n = 40_000
    with torch.no_grad():
        generator = seeded(3)
        z = model.prior().rsample((n,), generator)
        x, mean = model.draw(z, generator), model.decode(z).mean
    noise = x - mean
    assert x.shape == (n, P)
    error = noise.std(0) / math.sqrt(n)
    assert (noise.mean(0).abs() < 5 * error + 1e-9).all()
    covariance = noise.T @ z / n
    assert (covariance.abs() < 5 * error[:, None] + 1e-9).all()


def test_what_a_likelihood_measures():
    numeric, binary = Column("a", "numeric"), Column("b", "binary", ("x", "y"))
    expected = {
        Bernoulli(): ("probability", "pseudo-likelihood"),
        ContinuousBernoulli(): ("density", "density"),
        Gaussian(): ("density", "density"),
        **dict.fromkeys(
            (DiscretizedLogistic(), DiscretizedLogisticMixture(), Categorical(4), Poisson(),
             NegativeBinomial(), MixedColumns([binary])),
            ("probability", "probability"),
        ),
        MixedColumns([numeric]): ("density", "density"),
        MixedColumns([numeric, binary]): ("density and probability", "density and probability"),
        nn.Identity(): ("density", "density"),
    }  # fmt: skip
    for likelihood, measures in expected.items():
        assert tuple(measure_of(likelihood, binary) for binary in (True, False)) == measures

"""Priors: densities and draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from flowvae.distributions import (
    MixtureDistribution,
)
from flowvae.priors import StandardNormal, VampPrior
from flowvae.registry import PRIORS
from tests.helpers.families import model


@pytest.mark.parametrize("name", PRIORS)
def test_prior_integrates_to_one_and_describes_its_draws(name):
    torch.manual_seed(0)
    made = model(prior=name, latent_dim=2)
    p = made.prior()
    axis = torch.linspace(-9, 9, 361, dtype=torch.float64)
    with torch.no_grad():
        z = torch.cartesian_prod(axis, axis)
        density = p.log_prob(z).exp() * (axis[1] - axis[0]) ** 2
        drawn = p.rsample((20_000,), torch.Generator().manual_seed(0))
    assert density.sum().item() == pytest.approx(1.0, abs=1e-4)
    # Means of a bounded function by both.
    value = torch.sin(z + 0.3)
    expected = (density[:, None] * value).sum(0)
    sines = torch.sin(drawn + 0.3)
    assert ((sines.mean(0) - expected).abs() < 5 * sines.std(0) / len(drawn) ** 0.5).all()


def test_vampprior_is_the_mean_of_the_posteriors_at_its_pseudo_inputs():
    made = model(prior="vampprior", posterior="planar")
    p = made.prior()
    assert isinstance(p, MixtureDistribution)
    z = torch.randn(4, 3, dtype=torch.float64)
    assert isinstance(made.prior, VampPrior)
    u = made.prior.pseudo_inputs
    assert ((u > 0) & (u < 1)).all()
    each = torch.stack([made.posterior(u[m : m + 1]).log_prob(z) for m in range(5)])
    torch.testing.assert_close(p.log_prob(z), each.logsumexp(0) - math.log(5))
    # Trained through both of its ways: the pseudo-inputs and the encoder.
    p.log_prob(z).sum().backward()
    assert all(w.grad is not None for w in (made.prior.inputs, *made.encoder.parameters()))


def test_standard_normal_prior():
    z = torch.randn(6, 3)
    expected = Independent(Normal(torch.zeros(3), 1.0), 1).log_prob(z)
    torch.testing.assert_close(StandardNormal(3)().log_prob(z), expected)

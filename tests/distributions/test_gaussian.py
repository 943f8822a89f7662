"""Gaussian densities against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal

from flowvae.distributions import DiagonalGaussian


@pytest.mark.parametrize("D", [1, 2, 7])
def test_gaussian_agrees_with_torch(D):
    torch.manual_seed(0)
    loc, log_var = torch.randn(5, D).double(), 3 * torch.randn(5, D).double()
    ours = DiagonalGaussian(loc, log_var)
    theirs = Independent(Normal(loc, (0.5 * log_var).exp()), 1)
    z, log_q = ours.rsample_and_log_prob((11,))
    assert z.shape == (11, 5, D)
    torch.testing.assert_close(log_q, theirs.log_prob(z))
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)


def test_gaussian_log_density_survives_tiny_variance():
    q = DiagonalGaussian(torch.full((1, 2), 100.0), torch.full((1, 2), -90.0))
    _, log_q = q.rsample_and_log_prob((1000,))
    assert log_q.isfinite().all()
    assert log_q.mean().item() == pytest.approx(-q.entropy().item(), abs=0.2)

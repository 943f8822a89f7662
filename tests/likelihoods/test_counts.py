"""Counts in float32 and against torch.distributions."""

from __future__ import annotations

import pytest

mpmath = pytest.importorskip("mpmath")

import math

import numpy as np
import torch

from tests.helpers.likelihoods import likelihood


@pytest.mark.parametrize("log_r", [-5.0, 0.0, 6.9, 6.92, 12.0, 39.0, None])
def test_large_counts_keep_their_digits_in_float32(log_r):
    """Values and slopes against 50 digits, on both sides of each branch."""
    asked = torch.logspace(-3, 6, 10, dtype=torch.float64)
    eta = torch.where(asked.log() > 10, 9 + asked / math.exp(10), asked.log()).float()
    raw = torch.full_like(eta, 0.0 if log_r is None else log_r, requires_grad=True)
    if log_r is None:
        p = likelihood("poisson")[0].float()(eta)
    else:
        p = likelihood("negative_binomial")[0].float()(torch.cat([eta, raw]))
    np.testing.assert_allclose(p.mean.detach(), asked, rtol=2e-5)
    x = torch.stack([asked.floor(), (0.8 * asked).round(), (asked + 5 * asked.sqrt()).round()])
    found = p.log_prob_values(x.float())
    assert found.dtype == torch.float32
    wide = torch.where(eta.double() > 10, math.exp(10) * (eta.double() - 9), eta.double().exp())
    truth = [[_log_p(k, m, log_r) for k, m in zip(row, wide, strict=True)] for row in x]
    np.testing.assert_allclose(found.detach(), truth, rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(found.sum() + 0 * raw.sum(), raw)
    exact = [sum(_slope(k, m, log_r) for k in row) for row, m in zip(x.T, wide, strict=True)]
    np.testing.assert_allclose(slope, exact, rtol=1e-5, atol=1e-6)


def _log_p(x, mean, log_r) -> float:
    with mpmath.workdps(50):
        x, mean = mpmath.mpf(float(x)), mpmath.mpf(float(mean))
        if log_r is None:
            return float(x * mpmath.log(mean) - mean - mpmath.loggamma(x + 1))
        r = mpmath.exp(mpmath.mpf(float(np.float32(log_r))))
        ways = mpmath.loggamma(x + r) - mpmath.loggamma(r) - mpmath.loggamma(x + 1)
        return float(ways + r * mpmath.log(r / (r + mean)) + x * mpmath.log(mean / (r + mean)))


def _slope(x, mean, log_r) -> float:
    """∂ log p/∂ log r = r (ψ(x + r) - ψ(r) + log r/(r + μ) + (μ - x)/(r + μ)); 0 without r."""
    if log_r is None:
        return 0.0
    with mpmath.workdps(50):
        x, mean = mpmath.mpf(float(x)), mpmath.mpf(float(mean))
        r = mpmath.exp(mpmath.mpf(float(np.float32(log_r))))
        rise = mpmath.digamma(x + r) - mpmath.digamma(r) + mpmath.log(r / (r + mean))
        return float(r * (rise + (mean - x) / (r + mean)))


def test_overdispersion_can_vanish():
    """At mean 1e4 the variance goes from far above the mean down to it."""
    eta = torch.full((1,), math.log(1e4))
    made = likelihood("negative_binomial")[0].float()
    for log_r, ratio in ((5.0, 1 + 1e4 / math.exp(5)), (15.0, 1 + 1e4 / math.exp(15)), (40.0, 1.0)):
        p = made(torch.cat([eta, torch.full((1,), log_r)]))
        draws = p.sample((40_000,), generator=torch.Generator().manual_seed(0)).double()
        assert draws.mean().item() == pytest.approx(1e4, abs=5 * (1e4 * ratio / 40_000) ** 0.5)
        assert draws.var().item() / 1e4 == pytest.approx(ratio, rel=0.04)


def test_counts_agree_with_torch():
    eta = torch.linspace(-3, 6, 10, dtype=torch.float64)
    x = torch.arange(10, dtype=torch.float64)
    p = likelihood("poisson")[0](eta)
    expected = torch.distributions.Poisson(eta.exp()).log_prob(x).sum()
    torch.testing.assert_close(p.log_prob(x), expected)
    p = likelihood("negative_binomial")[0](torch.cat([eta, torch.full_like(eta, 0.4)]))
    r = torch.tensor(0.4, dtype=torch.float64).exp()
    theirs = torch.distributions.NegativeBinomial(r, logits=eta - r.log())
    torch.testing.assert_close(p.log_prob(x), theirs.log_prob(x).sum())
    torch.testing.assert_close(p.mean, theirs.mean)

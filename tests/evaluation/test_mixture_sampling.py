"""Importance sampling that finds modes which q misses."""

from __future__ import annotations

import math

import pytest
import torch

from flowvae.evaluation import (
    importance_sampling,
    mixture_importance_sampling,
)
from tests.helpers.linear_gaussian import LinearGaussian
from tests.helpers.making import seeded
from tests.helpers.vaes import bimodal


def test_the_mixture_finds_it_too():
    """And covers the truth at its rate, where importance sampling from q is off by log 2."""
    truth = LinearGaussian(D=2, P=4, sigma=0.3)
    model = bimodal(sigma=0.3)
    z = torch.tensor([[1.5, 0.3]], dtype=torch.float64)
    x = z @ truth.W.T + truth.c
    log_p = truth.marginal.log_prob(x) + math.log(2)
    found = mixture_importance_sampling(model, x.expand(400, -1), 500, seeded())
    score = (found["bound"] - log_p) / found["error"]
    # Its draws are stratified, so the error, which does not know it, is a little too large.
    assert 0.93 < (score.abs() < 2).double().mean() <= 1
    assert 0.62 < (score.abs() < 1).double().mean() < 0.85
    weight = (found["bound"] - log_p).exp()
    assert abs(weight.mean().item() - 1) < 4 * weight.std().item() / 20
    plain = importance_sampling(model, x, 20_000, seeded())
    assert plain["iw_bound"].item() == pytest.approx(log_p.item() - math.log(2), abs=0.02)
    assert plain["pareto_k"].item() < 0.7  # and nothing tells


def test_the_mixture_costs_little_where_it_finds_nothing():
    truth = LinearGaussian(D=12, P=20, sigma=0.2)
    x = truth.data(10)
    found = mixture_importance_sampling(truth.model(), x, 2000, seeded())
    off = found["bound"] - truth.marginal.log_prob(x)
    assert off.abs().max() < 0.05
    assert found["ess"].min() > 1400
    with pytest.raises(ValueError, match="samples: expected at least 4, got 3"):
        mixture_importance_sampling(truth.model(), x, 3)

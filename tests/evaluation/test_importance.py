"""Importance sampling and its diagnostics against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from flowvae.errors import UserError
from flowvae.evaluation import (
    importance_sampling,
    pareto_k,
    reliable_pareto_k,
)
from tests.helpers.linear_gaussian import LinearGaussian
from tests.helpers.making import seeded


def test_an_exact_posterior_gives_the_exact_value_at_once():
    truth = LinearGaussian(D=3, P=6)
    x = truth.data(20)
    found = importance_sampling(truth.model(), x, 50, seeded())
    expected = truth.marginal.log_prob(x)
    torch.testing.assert_close(found["iw_bound"], expected)
    torch.testing.assert_close(found["elbo"], expected)
    assert found["iw_error"].max() < 1e-6
    assert found["elbo_error"].max() < 1e-6
    torch.testing.assert_close(found["ess"], torch.full((20,), 50.0, dtype=torch.float64))


def test_error_bars_cover_the_truth_at_their_rate():
    """Of one datum's estimate, over 1,500 repetitions: 68% and 95% within 1 and 2 errors."""
    truth = LinearGaussian(D=2, P=4)
    model = truth.model(shift=0.2, widen=1.3)
    x = truth.data(1)
    found = importance_sampling(model, x.expand(1500, -1), 400, seeded())
    log_p = truth.marginal.log_prob(x)
    elbo = log_p - truth.kl(x, 0.2, 1.3)
    for name, error, expected in (
        ("iw_bound", "iw_error", log_p),
        ("elbo", "elbo_error", elbo),
    ):
        score = (found[name] - expected) / found[error]
        for width, rate in ((1.0, 0.683), (2.0, 0.954)):
            covered = (score.abs() < width).double().mean().item()
            assert covered == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / 1500))
    assert found["pareto_k"].mean() < 0.3  # q is wider than p(z|x): weights are bounded


def test_error_over_data_covers_the_mean_over_the_population():
    """Mean ± standard error over 100 data, for 600 data sets."""
    truth = LinearGaussian(D=2, P=4)
    model = truth.model(shift=0.2, widen=1.2)
    found = importance_sampling(model, truth.data(60_000), 50, seeded())["iw_bound"]
    sets = found.reshape(600, 100)
    score = (sets.mean(1) + truth.marginal.entropy()) / (sets.std(1) / 10)
    for width, rate in ((1.0, 0.683), (2.0, 0.954)):
        covered = (score.abs() < width).double().mean().item()
        assert covered == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / 600))


def test_chunks_and_batches_change_nothing_but_the_draws(monkeypatch):
    truth = LinearGaussian(D=2, P=4)
    model = truth.model(widen=1.1)
    x = truth.data(30)
    whole = importance_sampling(model, x, 300, seeded())
    counted: list[int] = []
    parts = importance_sampling(
        model, x, 300, seeded(), memory=300 * 32 * 7, advance=counted.append
    )
    assert counted == [7, 7, 7, 7, 2]
    difference = (whole["iw_bound"] - parts["iw_bound"]).abs()
    assert (difference < 6 * whole["iw_error"]).all()
    with pytest.raises(UserError, match="samples: expected at most 299, .* got 300"):
        importance_sampling(model, x, 300, memory=9599)
    with pytest.raises(ValueError, match="samples: expected at least 1, got 0"):
        importance_sampling(model, x, 0)


def test_one_sample_is_the_elbo_without_an_error():
    truth = LinearGaussian(D=2, P=4)
    found = importance_sampling(truth.model(widen=1.2), truth.data(3), 1, seeded())
    torch.testing.assert_close(found["elbo"], found["iw_bound"])
    assert found["iw_error"].isinf().all()
    assert found["pareto_k"].isnan().all()


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_is_the_shape_of_the_tail(k):
    """Weights u^-k have P(w > t) = t^(-1/k): shape k exactly, up to the weak prior at ½."""
    u = torch.rand(20_000, 200, generator=seeded(), dtype=torch.float64)
    found = pareto_k(-k * u.log() + 700.0)  # the scale does not matter
    M = math.ceil(3 * math.sqrt(20_000))
    expected = (M * k + 5) / (M + 10)
    assert found.mean().item() == pytest.approx(expected, abs=0.02)
    assert found.std().item() == pytest.approx((1 + k) / math.sqrt(M), rel=0.3)


def test_pareto_k_at_its_edges():
    assert pareto_k(torch.zeros(100, 3)).tolist() == [-math.inf] * 3
    assert pareto_k(torch.zeros(20, 2)).isnan().all()
    assert reliable_pareto_k(1) == 0.7

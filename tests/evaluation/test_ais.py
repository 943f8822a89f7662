"""Annealed importance sampling against closed forms and quadrature."""

from __future__ import annotations

import math

import pytest
import torch

import flowvae
from flowvae.evaluation import (
    annealed_importance_sampling,
    bdmc,
)
from tests.helpers.linear_gaussian import LinearGaussian, linear_model
from tests.helpers.making import seeded


@pytest.mark.parametrize(("start", "T"), [("prior", 150), ("posterior", 40)])
def test_annealing_covers_the_truth_at_its_rate(start, T):
    """120 repetitions on one datum: the score's mean square is 1, its mean 0."""
    truth = LinearGaussian(D=3, P=5, sigma=0.5, diagonal=False)
    model = truth.model(shift=0.3, widen=1.3)
    x = truth.data(1)
    found = annealed_importance_sampling(
        model, x.expand(120, -1), chains=40, temperatures=T, leapfrog=5, start=start,
        generator=seeded(),
    )  # fmt: skip
    score = (found.log_prob - truth.marginal.log_prob(x)) / found.standard_error
    assert found.standard_error.max() < 0.35
    covered = (score.abs() < 2).double().mean().item()
    assert covered == pytest.approx(0.954, abs=4 * math.sqrt(0.954 * 0.046 / 120))
    covered = (score.abs() < 1).double().mean().item()
    assert covered == pytest.approx(0.683, abs=4 * math.sqrt(0.683 * 0.317 / 120))
    # The mean weight itself is unbiased: steps do not follow the chains they move.
    weight = (found.log_prob - truth.marginal.log_prob(x)).exp()
    assert abs(weight.mean().item() - 1) < 4 * weight.std().item() / math.sqrt(120)
    assert (found.acceptance - 0.65).abs().max() < 0.25


def test_more_temperatures_are_better():
    truth = LinearGaussian(D=4, P=6, sigma=0.2, diagonal=False)
    model, x = truth.model(), truth.data(20)
    off = [
        (
            truth.marginal.log_prob(x)
            - annealed_importance_sampling(
                model, x, chains=4, temperatures=T, leapfrog=5, generator=seeded()
            ).log_prob
        ).mean()
        for T in (10, 300)
    ]
    assert off[0] > 1
    assert abs(off[1]) < 0.2


def test_bounds_from_both_sides_bracket_the_truth():
    """Simulated data, whose log p(x) is known in closed form."""
    truth = LinearGaussian(D=3, P=5, sigma=0.4, diagonal=False)
    model = truth.model()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = bdmc(model, 200, chains=2, temperatures=30, leapfrog=4, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    again = bdmc(model, 200, chains=2, temperatures=30, leapfrog=4, seed=3)
    assert torch.equal(found.lower, again.lower)
    # The same simulated data once more.
    z = model.prior().rsample((200,), seeded(3))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        log_p = truth.marginal.log_prob(model.decode(z).sample())
    for side, bound in ((1, found.lower), (-1, found.upper)):
        slack = side * (log_p - bound)
        error = slack.std() / math.sqrt(200)
        assert slack.mean() > 2 * error, "a loose bound lies on its own side"
    long = bdmc(model, 30, chains=16, temperatures=200, leapfrog=5)
    assert abs(long.gap.mean) < 0.15
    assert long.gap.mean + 4 * (long.gap.standard_error or math.inf) > 0


def test_annealing_refuses_bad_arguments():
    truth = LinearGaussian()
    with pytest.raises(ValueError, match="temperatures: expected at least 1, got 0"):
        annealed_importance_sampling(truth.model(), truth.data(1), temperatures=0)
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        bdmc(truth.model(), 0)


def test_annealing_agrees_with_quadrature_on_a_trained_model(run):
    x = run.dataset.test.values(slice(8))
    exact = flowvae.evaluation.quadrature(run.model, x).log_prob
    found = annealed_importance_sampling(
        run.model, x, chains=32, temperatures=100, leapfrog=5, generator=seeded()
    )
    assert ((found.log_prob - exact).abs() < 4.5 * found.standard_error + 1e-3).all()


def test_simulated_data_of_the_two_sided_check_is_the_models():
    """The mean of log p(x) over the model's own data is minus its entropy. P = D."""
    truth = LinearGaussian(D=3, P=3, sigma=0.8, diagonal=False)
    found = bdmc(linear_model(truth), 400, chains=4, temperatures=40, leapfrog=4)
    entropy = truth.marginal.entropy().item()
    error = (truth.P / 2 / 400) ** 0.5  # of the mean of ½ χ²(P)
    middle = 0.5 * (found.lower + found.upper).mean().item()
    assert middle == pytest.approx(-entropy, abs=4 * error)


def test_annealing_in_inference_mode():
    model = LinearGaussian(2, 3).model()
    with torch.inference_mode():
        x = torch.randn(2, 3, dtype=torch.float64)
        found = annealed_importance_sampling(model, x, chains=2, temperatures=3)
    assert found.log_prob.isfinite().all()

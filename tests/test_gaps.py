"""Annealed importance sampling, its two-sided check, and where the nats are: closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from linear_gaussian import LinearGaussian

import flowvae
from flowvae.config import resolve_config
from flowvae.evaluation import (
    active_units,
    annealed_importance_sampling,
    bdmc,
    inference_gaps,
    mutual_information,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- annealing


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


# ---------------------------------------------------------------- gaps


@pytest.mark.parametrize("K", [0, 2])
def test_an_encoder_that_is_off_is_told_from_a_family_that_is_small(K):
    """Diagonal truth: all of the gap is amortization, and its value is known."""
    truth = LinearGaussian(D=2, P=4, sigma=0.5)
    x = truth.data(16)
    gaps = inference_gaps(
        truth.model(shift=0.2, widen=1.5, K=K), x, log_prob=truth.marginal.log_prob(x),
        steps=300, samples=4000, generator=seeded(),
    )  # fmt: skip
    expected = truth.kl(x, 0.2, 1.5).item()
    error = gaps["elbo_error"] + gaps["fitted_elbo_error"]
    assert ((gaps["amortization_gap"] - expected).abs() < 4 * error + 0.01).all()
    assert gaps["approximation_gap"].mean().item() == pytest.approx(0, abs=0.01)


def test_a_family_that_is_small():
    """Correlated truth, diagonal q: KL = ½ (Σ log Λ_ii - log|Λ|) at the best q."""
    truth = LinearGaussian(D=2, P=4, sigma=0.5, seed=7, diagonal=False)
    precision = torch.linalg.inv(truth.covariance)
    expected = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
    assert expected > 0.3
    x = truth.data(16)
    gaps = inference_gaps(
        truth.model(K=0), x, log_prob=truth.marginal.log_prob(x), steps=300, samples=4000,
        generator=seeded(),
    )  # fmt: skip
    assert gaps["approximation_gap"].mean().item() == pytest.approx(expected, abs=0.01)
    sampled = inference_gaps(truth.model(K=0), x, steps=20, samples=4000, generator=seeded())
    assert (sampled["log_prob"] - truth.marginal.log_prob(x)).abs().max() < 0.2


def test_a_head_without_one_linear_layer_is_fitted_through_its_features():
    config = resolve_config(hidden_dims=(32,), num_flows=1)
    model = flowvae.build_vae(config, (4, 3)).eval()
    x = (torch.rand(6, 12, generator=seeded()) > 0.5).float()
    before = [parameter.clone() for parameter in model.parameters()]
    direct = inference_gaps(model, x, steps=150, generator=seeded())
    head = model.posterior_head
    head.heads = torch.nn.Sequential(head.heads)
    features = inference_gaps(model, x, steps=150, generator=seeded())
    assert (direct["fitted_elbo"] > direct["elbo"]).all()
    torch.testing.assert_close(features["fitted_elbo"], direct["fitted_elbo"], atol=0.1, rtol=0)
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is None


# ---------------------------------------------------------------- diagnostics


def test_information_splits_the_divergence():
    truth = LinearGaussian(D=2, P=4, sigma=0.5)
    model, x = truth.model(), truth.data(400)
    found = mutual_information(model, x, samples=4, generator=seeded())
    whole = found.mutual_information.mean + found.marginal_kl.mean
    assert whole == pytest.approx(found.kl.mean, abs=1e-10)
    loc, variance = (x - truth.c) @ truth.gain.T, truth.covariance.diagonal()
    kl = 0.5 * (loc.square() + variance - 1 - variance.log()).sum(-1).mean().item()
    assert abs(found.kl.mean - kl) < 4.5 * (found.kl.standard_error or math.inf)
    # q(z) is close to p(z): information is close to that of the channel, ½ log |I + WᵀW/σ²|.
    channel = -0.5 * truth.covariance.logdet().item()
    assert found.mutual_information.mean == pytest.approx(channel, abs=0.15)
    assert found.mutual_information.mean < found.largest
    assert abs(found.marginal_kl.mean) < 0.1


def test_information_is_bounded_by_the_number_of_data():
    truth = LinearGaussian(D=2, P=4, sigma=0.001)
    found = mutual_information(truth.model(), truth.data(10), generator=seeded())
    assert found.mutual_information.mean == pytest.approx(math.log(10), abs=1e-6)


def test_active_units_are_counted_without_the_draws_own_noise():
    truth = LinearGaussian(D=3, P=5, sigma=0.7)
    model = truth.model()
    with torch.no_grad():  # the last unit no longer sees x
        model.get_parameter("posterior_head.heads.weight")[2] = 0
    count, variance = active_units(model, truth.data(4000), samples=4, generator=seeded())
    assert count == 2
    expected = 1 - truth.covariance.diagonal()  # Var E[z|x] = 1 - Var[z|x]
    torch.testing.assert_close(variance[:2], expected[:2], atol=0.05, rtol=0)
    assert abs(variance[2].item()) < 0.01

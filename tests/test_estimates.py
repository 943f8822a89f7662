"""Importance sampling and quadrature against closed forms, and against each other."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from linear_gaussian import LinearGaussian

import flowvae
from flowvae.config import resolve_config
from flowvae.distributions import DiagonalGaussian, FlowDistribution
from flowvae.distributions.base import standard_noise
from flowvae.evaluation import (
    importance_sampling,
    mixture_importance_sampling,
    pareto_k,
    quadrature,
    reliable_pareto_k,
)
from flowvae.flows import PlanarTransform


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- importance sampling


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
    with pytest.raises(ValueError, match="memory: expected at least 9600 bytes .* got 9599"):
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


# ---------------------------------------------------------------- quadrature


@pytest.mark.parametrize("D", [1, 2])
@pytest.mark.parametrize("sigma", [1.0, 0.02])
def test_quadrature_is_the_closed_form(D, sigma):
    """log p(x) and KL(q ‖ p(z|x)), posteriors from broad to a thousandth of the box."""
    truth = LinearGaussian(D=D, P=4, sigma=sigma)
    shift = 0.3 * sigma
    x = truth.data(12)
    found = quadrature(truth.model(shift=shift, widen=1.4), x, keep=True)
    assert ((found.log_prob - truth.marginal.log_prob(x)).abs() <= found.error + 1e-6).all()
    assert found.error.max() < 1e-3
    assert found.kl is not None
    assert found.kl_error is not None
    assert ((found.kl - truth.kl(x, shift, 1.4)).abs() <= found.kl_error + 1e-6).all()
    assert found.kl_error.max() < 1e-3
    assert found.posterior is not None
    for (z, log_prob, log_volume), datum in zip(found.posterior, x, strict=True):
        assert (log_prob.exp().sum() * math.exp(log_volume)).item() == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(log_prob, truth.posterior(datum).log_prob(z), atol=1e-3, rtol=0)


def bimodal(sigma: float = 0.1) -> flowvae.VAE:
    """x depends on |z₁|: two modes, of which q sees one."""
    model = LinearGaussian(D=2, P=4, sigma=sigma).model()

    class Even(torch.nn.Module):
        def forward(self, z):
            return torch.cat([z[..., :1].abs(), z[..., 1:]], -1)

    model.decoder = torch.nn.Sequential(Even(), model.decoder)
    return model


def test_quadrature_finds_the_mode_that_q_does_not():
    truth = LinearGaussian(D=2, P=4, sigma=0.1)
    z = torch.tensor([[1.5, 0.3]], dtype=torch.float64)
    x = z @ truth.W.T + truth.c
    found = quadrature(bimodal(), x)
    assert found.log_prob.item() == pytest.approx(
        truth.marginal.log_prob(x).item() + math.log(2), abs=2e-3
    )
    assert found.kl is not None
    assert found.kl.item() == pytest.approx(math.log(2), abs=2e-3)


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


def test_without_noise_the_divergence_is_integrated_over_z(monkeypatch):
    """Both ways agree on a bent posterior; one with neither has no divergence."""
    config = resolve_config(num_flows=3, hidden_dims=(16,), constraint="centred")
    model = flowvae.build_vae(config, (4, 3)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    x = (torch.rand(5, 12, generator=seeded(), dtype=torch.float64) > 0.5).double()
    by_noise = quadrature(model, x)

    def no(*_, **__):
        raise NotImplementedError

    given = FlowDistribution.at_noise

    def drawn(q, shape=(), generator=None):
        return given(q, standard_noise(q, shape, q.base.loc, generator))

    monkeypatch.setattr(FlowDistribution, "rsample_terms", drawn)
    monkeypatch.setattr(FlowDistribution, "at_noise", no)
    by_z = quadrature(model, x)
    assert by_noise.kl is not None
    assert by_z.kl is not None
    torch.testing.assert_close(by_z.kl, by_noise.kl, atol=2e-3, rtol=0)
    torch.testing.assert_close(by_z.log_prob, by_noise.log_prob)
    monkeypatch.setattr(FlowDistribution, "log_prob", no)
    assert quadrature(model, x).kl is None


def test_elbo_and_exact_divergence_make_the_evidence(run):
    """On a trained model: ELBO + KL(q ‖ p(z|x)) = log p(x), each found on its own."""
    x = run.dataset.test.values(slice(20))
    exact = quadrature(run.model, x)
    sampled = importance_sampling(run.model, x, 4000, seeded())
    assert exact.kl is not None
    score = (sampled["elbo"] + exact.kl - exact.log_prob) / sampled["elbo_error"]
    assert score.abs().max() < 4.5
    assert score.square().mean() < 2.5
    believable = sampled["pareto_k"] < 0.7
    score = (sampled["iw_bound"] - exact.log_prob) / sampled["iw_error"]
    assert score[believable].abs().max() < 4.5


def test_the_noise_behind_a_draw():
    """at_noise gives the draws that rsample_terms makes of the same noise."""
    loc, log_var = torch.randn(2, 4, 3, generator=seeded()).double()
    w, u = torch.randn(2, 4, 5, 3, generator=seeded(1)).double()
    b = torch.randn(4, 5, generator=seeded(2)).double()
    flow = PlanarTransform(w, u, b, "centred")
    q = FlowDistribution(DiagonalGaussian(loc, log_var), flow)
    eps = torch.randn(7, 4, 3, generator=seeded(3), dtype=torch.float64)
    for got, wanted in zip(q.at_noise(eps), q.rsample_terms((7,), seeded(3)), strict=True):
        torch.testing.assert_close(got, wanted)


def test_what_does_not_settle_is_given_with_its_error(monkeypatch):
    from flowvae.evaluation import quadrature as function

    module = sys.modules[function.__module__]
    monkeypatch.setattr(module, "_MOST_CELLS", 100)
    truth = LinearGaussian(D=2, P=4, sigma=0.02)
    x = truth.data(3)
    found = quadrature(truth.model(), x, tolerance=1e-12)
    assert (found.error > 1e-12).all()
    assert ((found.log_prob - truth.marginal.log_prob(x)).abs() < found.error + 1e-6).all()


def test_quadrature_refuses_what_it_cannot():
    model = flowvae.build_vae(resolve_config(latent_dim=3, hidden_dims=(4,)), (4,))
    with pytest.raises(ValueError, match="model: expected D ≤ 2 for quadrature, got 3"):
        quadrature(model, torch.rand(2, 4))
    small = flowvae.build_vae(resolve_config(hidden_dims=(4,)), (4,))
    with pytest.raises(ValueError, match=r"tolerance: expected a number in \(0, 1\), got 0.0"):
        quadrature(small, torch.rand(2, 4), tolerance=0.0)
    with torch.no_grad():
        small.get_parameter("decoder.1.bias").fill_(math.nan)
    with pytest.raises(ArithmeticError, match="NaN or zero everywhere"):
        quadrature(small, torch.rand(2, 4))

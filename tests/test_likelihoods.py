"""Likelihoods: total probability, means, draws, extremes; data they refuse."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from torch.distributions import Distribution

import flowvae
from flowvae.config import build, resolve_config
from flowvae.data import Dataset
from flowvae.data.columns import Column
from flowvae.likelihoods import Likelihood
from flowvae.registry import LIKELIHOODS

P = 3
TABLE = (
    Column("age", "numeric"),
    Column("colour", "categorical", ("a", "b", "c")),
    Column("smoker", "binary", ("no", "yes")),
)
SETTINGS = {
    "gaussian": [{"sigma": "learned"}, {"sigma": "per_pixel"}, {"sigma": 0.3}],
    "categorical": [{"num_categories": 5}],
}
CASES = [(name, each) for name in LIKELIHOODS for each in SETTINGS.get(name, [{}])]


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


def whole_support(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Values, with weights for their sum or integral."""
    if name == "gaussian":
        return real_line()
    if name == "continuous_bernoulli":
        return quadrature(0, 1)
    levels = torch.arange(256).double() / 255
    values = {
        "bernoulli": torch.arange(2),
        "discretized_logistic": levels,
        "logistic_mixture": levels,
        "categorical": torch.arange(5),
        "poisson": torch.arange(60_000),
        "negative_binomial": torch.arange(60_000),
    }[name].double()
    return values, torch.ones_like(values)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize(("name", "settings"), [case for case in CASES if case[0] != "mixed"])
def test_probabilities_have_total_one_and_the_mean_that_is_said(name, settings, scale):
    p = at_random(name, scale, **settings)
    values, weights = whole_support(name)
    x = values[:, None].expand(-1, P)
    inner = getattr(p, "base_dist", None)  # of torch's Independent
    log_p = p.log_prob_values(x) if inner is None else inner.log_prob(x)
    torch.testing.assert_close(p.log_prob(x), log_p.sum(-1))
    probability = log_p.exp() * weights[:, None]
    total = probability.sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)
    loose = 0.6 / 255 if "logistic" in name else 1e-6
    torch.testing.assert_close((probability * x).sum(0), p.mean, atol=loose, rtol=1e-5)


def test_a_row_of_a_table_has_total_probability_one():
    p = at_random("mixed", 1.5)
    numeric, weights = real_line()
    total, mean = 0.0, torch.zeros(5, dtype=torch.float64)
    for colour, smoker in itertools.product(range(3), range(2)):
        x = torch.zeros(len(numeric), 5, dtype=torch.float64)
        x[:, 0], x[:, 1 + colour], x[:, 4] = numeric, 1, smoker
        density = p.log_prob(x).exp() * weights
        total += density.sum().item()
        mean += (density[:, None] * x).sum(0)
    assert total == pytest.approx(1.0, abs=1e-8)
    torch.testing.assert_close(mean, p.mean, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_draws_lie_in_the_support_and_have_the_mean(name, settings):
    p = at_random(name, 0.7, batch=(2,), **settings)
    before = torch.get_rng_state()
    options = {} if name == "bernoulli" else {"generator": torch.Generator().manual_seed(0)}
    torch.manual_seed(0)
    x = p.sample((40_000,), **options)
    torch.set_rng_state(before)
    assert x.shape == (40_000, 2, 5 if name == "mixed" else P)
    assert p.log_prob(x).isfinite().all()
    error = x.std(0) / len(x) ** 0.5
    loose = 0.6 / 255 if "logistic" in name else 0.0
    assert ((x.mean(0) - p.mean).abs() < 5 * error + loose).all()
    if "logistic" in name:
        assert torch.equal((x * 255).round() / 255, x)
    if name in ("poisson", "negative_binomial", "categorical"):
        assert torch.equal(x.round(), x)
    if name == "mixed":
        assert (x[..., 1:4].sum(-1) == 1).all()


@pytest.mark.parametrize("size", [100.0, 1e4])
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_float32_extremes_are_finite(name, settings, size):
    made, width = likelihood(name, **settings)
    made = made.float()
    torch.manual_seed(0)
    outputs = (torch.randint(0, 2, (64, made.num_outputs(width))) * 2.0 - 1) * size
    outputs.requires_grad_()
    p = made(outputs)
    edges = {
        "gaussian": (-100.0, 100.0),
        "poisson": (0.0, 500.0),
        "negative_binomial": (0.0, 500.0),
    }
    low, high = edges.get(name, (0.0, 1.0))
    for value in (low, high):
        x = torch.full((64, width), value)
        log_p = p.log_prob(x)
        assert log_p.isfinite().all()
        (gradient,) = torch.autograd.grad(log_p.sum(), outputs, retain_graph=True)
        assert gradient.isfinite().all()
    assert p.mean.isfinite().all()


def test_continuous_bernoulli_near_one_half():
    """In float64 against 50 digits; torch's own takes a Taylor polynomial within 0.499 … 0.501."""
    made, _ = likelihood("continuous_bernoulli")
    mpmath.mp.dps = 50
    for exponent in range(-14, 3):
        for sign, x in itertools.product((-1, 1), (0.0, 0.3, 1.0)):
            logit = sign * 2.7 * 10.0**exponent
            length = mpmath.mpf(logit)
            expected = x * length - mpmath.log((mpmath.exp(length) - 1) / length)
            mean = 1 / (1 - mpmath.exp(-length)) - 1 / length
            p = made(torch.tensor([logit], dtype=torch.float64))
            got = p.log_prob(torch.tensor([x], dtype=torch.float64)).item()
            assert got == pytest.approx(float(expected), rel=1e-12, abs=1e-12)
            assert p.mean.item() == pytest.approx(float(mean), rel=1e-12)


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
    if log_r is not None:
        (slope,) = torch.autograd.grad(found.sum(), raw)
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
    """∂ log p/∂ log r = r (ψ(x + r) - ψ(r) + log r/(r + μ) + (μ - x)/(r + μ))."""
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


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_the_mean_that_a_decoder_starts_at(name):
    made = likelihood(name)[0]
    mean = torch.tensor([1e-2, 1.0, 2e4, 3e4, 1e6], dtype=torch.float64)
    eta = made.outputs_at_mean(mean)
    outputs = torch.cat([eta, torch.zeros_like(eta)])[: made.outputs_per_dim * len(mean)]
    torch.testing.assert_close(made(outputs).mean, mean)


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


GREY = np.linspace(0, 1, 60, dtype=np.float32).reshape(10, 6)
DATA = {
    "grey": GREY,
    "binary": (GREY > 0.5).astype(np.float32),
    "eight_bit": (GREY * 255).round().astype(np.uint8),
    "counts": np.arange(60).reshape(10, 6),
    "few": np.arange(60).reshape(10, 6) % 4,
    "real": GREY * 5 - 2,
}
FIT = {
    "grey": {"bernoulli", "continuous_bernoulli", "gaussian"},
    "binary": {*LIKELIHOODS} - {"mixed"},
    "eight_bit": {
        *("bernoulli", "continuous_bernoulli", "gaussian"),
        *("discretized_logistic", "logistic_mixture"),
    },
    "counts": {"gaussian", "poisson", "negative_binomial"},
    "few": {"gaussian", "poisson", "negative_binomial", "categorical"},
    "real": {"gaussian"},
}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_data_outside_the_support_is_refused(name, kind, tmp_path):
    data = Dataset.from_arrays(DATA[kind][:8], DATA[kind][8:])
    if name in FIT[kind]:
        run = flowvae.train(
            likelihood=name, dataset=data, out=tmp_path / "run", epochs=1, hidden_dims=(4,),
            batch_size=4, evaluation_samples=2, finish=False, progress=False,
        )  # fmt: skip
        assert np.isfinite(run.metrics[0]["test_elbo"])
        return
    with pytest.raises(flowvae.UserError, match=f"likelihood: {name} expects .*what fits: ") as e:
        flowvae.train(likelihood=name, dataset=data, out=tmp_path / "run", progress=False)
    assert set(str(e.value).split("what fits: ")[1].split(", ")) == FIT[kind]
    assert not (tmp_path / "run").exists()


def test_a_pseudo_likelihood_is_the_bernoullis_alone(tmp_path):
    data = Dataset.from_arrays(GREY[:8], GREY[8:])
    for name, pseudo in (("bernoulli", True), ("continuous_bernoulli", False)):
        run = flowvae.train(
            likelihood=name, dataset=data, out=tmp_path / name, epochs=1, hidden_dims=(4,),
            evaluation_samples=2, progress=False,
        )  # fmt: skip
        assert run.evaluation is not None
        assert run.evaluation.pseudo_likelihood is pseudo


@pytest.mark.parametrize("network", ["mlp", "gated_conv", "resnet"])
@pytest.mark.parametrize(
    "likelihood", ["bernoulli", "gaussian", "poisson", "negative_binomial", "discretized_logistic"]
)
def test_a_decoder_can_start_at_the_mean_of_the_data(likelihood, network):
    """Where all but the last bias is zero, the mean of p(x|z) is that of the data."""
    from flowvae.vae import build_vae, start_at_mean

    settings = {"likelihood": likelihood, "network": network, "hidden_dims": (8,)}
    model = build_vae(resolve_config(**settings), (6, 5))
    mean = torch.linspace(0.1, 0.9, 30)
    start_at_mean(model, mean)
    with torch.no_grad():
        *others, _ = model.decoder.parameters()
        for parameter in others:
            parameter.zero_()
        found = model.decode(torch.randn(4, 2)).mean
    tolerance = 0.01 if likelihood == "discretized_logistic" else 1e-4  # clipped at 0 and 1
    if likelihood == "discretized_logistic":
        found, mean = found[:, 10:20], mean[10:20]
    torch.testing.assert_close(found, mean.expand_as(found), rtol=0, atol=tolerance)


def test_a_likelihood_without_a_mean_to_start_at_is_refused():
    from flowvae.vae import build_vae, start_at_mean

    model = build_vae(resolve_config(likelihood="logistic_mixture"), (6, 5))
    with pytest.raises(ValueError, match="init_output_bias: expected a likelihood"):
        start_at_mean(model, torch.full((30,), 0.5))

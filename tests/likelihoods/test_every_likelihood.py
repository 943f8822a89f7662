"""Every likelihood of the registry: total probability, draws, extremes, means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowvae.config import resolve_config
from flowvae.registry import LIKELIHOODS
from tests.helpers.likelihoods import P, at_random, likelihood, quadrature, real_line

SETTINGS = {
    "gaussian": [{"sigma": "learned"}, {"sigma": "per_pixel"}, {"sigma": 0.3}],
    "categorical": [{"num_categories": 5}],
}


CASES = [(name, each) for name in LIKELIHOODS for each in SETTINGS.get(name, [{}])]


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


def lies_in_support(name: str, x: Tensor) -> Tensor:
    if "logistic" in name:
        return (x * 255).round() / 255 == x
    if name in ("poisson", "negative_binomial", "categorical"):
        return x.round() == x
    return x[..., 1:4].sum(-1) == 1 if name == "mixed" else x.isfinite()


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
    assert lies_in_support(name, x).all()


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


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_the_mean_that_a_decoder_starts_at(name):
    made = likelihood(name)[0]
    mean = torch.tensor([1e-2, 1.0, 2e4, 3e4, 1e6], dtype=torch.float64)
    eta = made.outputs_at_mean(mean)
    outputs = torch.cat([eta, torch.zeros_like(eta)])[: made.outputs_per_dim * len(mean)]
    torch.testing.assert_close(made(outputs).mean, mean)


@pytest.mark.parametrize("network", ["mlp", "gated_conv", "resnet"])
@pytest.mark.parametrize(
    "likelihood", ["bernoulli", "gaussian", "poisson", "negative_binomial", "discretized_logistic"]
)
def test_a_decoder_can_start_at_the_mean_of_the_data(likelihood, network):
    """Where all but the last bias is zero, the mean of p(x|z) is that of the data."""
    from flowvae.building import build_vae
    from flowvae.initialization import start_at_mean

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
    from flowvae.building import build_vae
    from flowvae.initialization import start_at_mean

    model = build_vae(resolve_config(likelihood="logistic_mixture"), (6, 5))
    with pytest.raises(ValueError, match="init_output_bias: expected a likelihood"):
        start_at_mean(model, torch.full((30,), 0.5))

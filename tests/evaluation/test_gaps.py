"""The inference gap and its parts against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

import flowvae
from flowvae.config import resolve_config
from flowvae.evaluation import (
    inference_gaps,
    quadrature,
)
from flowvae.priors import VampPrior
from tests.helpers.linear_gaussian import LinearGaussian, linear_model
from tests.helpers.making import seeded


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


def vamp_model(truth: LinearGaussian, components: int) -> flowvae.VAE:
    model = linear_model(truth, shift=0.4, K=0)
    prior = VampPrior(truth.P, components, None).double()
    return flowvae.VAE(
        model.encoder, model.posterior_head, prior, model.decoder, model.likelihood,
        latent_dim=truth.D, data_shape=(truth.P,),
    ).eval()  # fmt: skip


# With one component p(z|x) is Gaussian and nearly diagonal: nothing of a gap stays.
@pytest.mark.parametrize(("components", "largest_gap"), [(1, 0.3), (6, math.inf), (7, math.inf)])
def test_a_fitted_posterior_leaves_a_prior_of_the_same_head_alone(components, largest_gap):
    """With 6 data and 6 pseudo-inputs, offsets of the data once reached the prior."""
    truth = LinearGaussian(D=2, P=4, sigma=0.5)
    model, x = vamp_model(truth, components), truth.data(6)
    exact = quadrature(model, x)
    gaps = inference_gaps(
        model, x, log_prob=exact.log_prob, steps=200, samples=2000, generator=seeded()
    )
    assert (gaps["fitted_elbo"] < exact.log_prob + 5 * gaps["fitted_elbo_error"] + 2e-3).all()
    assert (gaps["amortization_gap"] > -5 * gaps["elbo_error"]).all()
    assert gaps["approximation_gap"].abs().max() < largest_gap


def test_log_p_of_the_gap_is_not_above_the_truth_and_its_error_covers():
    """D = 12, proposals that are off: the larger of two bounds lay 0.115 nats above."""
    truth = LinearGaussian(D=12, P=15, sigma=0.6, diagonal=False)
    model, x = linear_model(truth, shift=0.05, widen=1.1), truth.data(1).expand(60, -1)
    gaps = inference_gaps(model, x, steps=60, samples=1000, generator=seeded())
    off = gaps["log_prob"] - truth.marginal.log_prob(x)
    score = off / gaps["log_prob_error"]
    assert gaps["log_prob_error"].max() < 0.5
    assert off.mean() < 4 * off.std() / math.sqrt(60)
    assert (off.exp().mean() - 1).abs() < 4 * off.exp().std() / math.sqrt(60)
    assert (score.abs() < 2.5).double().mean() > 0.9

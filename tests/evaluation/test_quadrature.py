"""Adaptive quadrature against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import flowvae
from flowvae.config import resolve_config
from flowvae.distributions import DiagonalGaussian, FlowDistribution
from flowvae.distributions.base import standard_noise
from flowvae.evaluation import (
    importance_sampling,
    quadrature,
)
from flowvae.flows import PlanarTransform
from flowvae.likelihoods import (
    Gaussian,
)
from flowvae.posteriors import GaussianPosterior
from flowvae.priors import StandardNormal
from tests.helpers.linear_gaussian import LinearGaussian
from tests.helpers.making import seeded
from tests.helpers.vaes import bimodal


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


def test_what_does_not_settle_is_given_with_its_error():
    truth = LinearGaussian(D=2, P=4, sigma=0.02)
    x = truth.data(3)
    found = quadrature(truth.model(), x, tolerance=1e-12, most_cells=100)
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


class Needles(nn.Module):
    """Decoder of D = 1 that is smooth but for a step of the mean, as sharp as float32 can be."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.where(z > 0.3, 1.0, 0.0) + 0.1 * z


def test_one_datum_that_does_not_settle_leaves_the_others_as_they_were():
    """D = 1: at the finest level all data of the batch were once marked, and became NaN."""
    torch.manual_seed(0)
    model = flowvae.VAE(
        nn.Identity(), GaussianPosterior(1, 1), StandardNormal(1), Needles(),
        Gaussian(0.01), latent_dim=1, data_shape=(1,),
    ).eval()  # fmt: skip
    x = torch.tensor([[0.0], [0.05], [0.5], [1.08]])
    together = quadrature(model, x, tolerance=1e-7)
    assert together.log_prob.isfinite().all()
    for row, value in zip(x.split(1), together.log_prob, strict=True):
        alone = quadrature(model, row, tolerance=1e-7).log_prob[0]
        assert value.item() == pytest.approx(alone.item(), abs=1e-3)

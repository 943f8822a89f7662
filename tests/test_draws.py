"""What is drawn from a model, and what is estimated by draws, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from linear_gaussian import LinearGaussian
from torch import nn

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Column
from flowvae.evaluation import bdmc, inference_gaps, quadrature
from flowvae.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gaussian,
    MixedColumns,
    NegativeBinomial,
    Poisson,
    measure_of,
)
from flowvae.posteriors import GaussianPosterior
from flowvae.priors import StandardNormal, VampPrior
from flowvae.registry import LIKELIHOODS


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_model(truth: LinearGaussian, **settings) -> flowvae.VAE:
    """The same model with a likelihood of ours, which draws by a generator."""
    model = truth.model(**settings)
    model.likelihood = Gaussian(truth.sigma)
    return model


# ---------------------------------------------------------------- generation


def with_likelihood(name: str, D: int) -> tuple[flowvae.VAE, int]:
    P = D
    columns = None
    if name == "mixed":
        columns = [Column("a", "numeric"), Column("b", "binary", ("x", "y"))]
        P = 2
    settings = {"num_categories": 4} if name == "categorical" else {}
    config = resolve_config(likelihood=name, latent_dim=D, hidden_dims=(6,), **settings)
    return flowvae.build_vae(config, (P,), columns=columns).double().eval(), P


@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_moments_of_draws_are_the_models(name):
    """E x = E E[x|z], and Cov(x, z) = Cov(E[x|z], z): x's noise knows nothing of z. P = D."""
    model, P = with_likelihood(name, 2)
    n = 40_000
    with torch.no_grad():
        generator = seeded(3)
        z = model.prior().rsample((n,), generator)
        x, mean = model.draw(z, generator), model.decode(z).mean
    noise = x - mean
    assert x.shape == (n, P)
    error = noise.std(0) / math.sqrt(n)
    assert (noise.mean(0).abs() < 5 * error + 1e-9).all()
    covariance = noise.T @ z / n
    assert (covariance.abs() < 5 * error[:, None] + 1e-9).all()


def test_the_estimators_draws_have_the_variance_of_the_data():
    """Noise that repeated z made a variance of 2.07 out of 3.74."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(500, 2)) * 2
    found = flowvae.FlowVAE(
        posterior="gaussian", hidden_dims=(8,), epochs=3, random_state=0, standardize=False,
        settings={"sigma": 1.5},
    ).fit(X)  # fmt: skip
    n = 50_000
    x = found.sample(n, random_state=1)
    with torch.no_grad():
        mean = found.model_.decode(torch.randn(n, 2, generator=seeded())).mean.double()
    expected = mean.var(0) + 1.5**2
    assert x.var(0) == pytest.approx(expected.numpy(), rel=0.05)
    assert np.array_equal(x, found.sample(n, random_state=1))
    assert not np.array_equal(x, found.sample(n, random_state=2))


def test_simulated_data_of_the_two_sided_check_is_the_models():
    """The mean of log p(x) over the model's own data is minus its entropy. P = D."""
    truth = LinearGaussian(D=3, P=3, sigma=0.8, diagonal=False)
    found = bdmc(linear_model(truth), 400, chains=4, temperatures=40, leapfrog=4)
    entropy = truth.marginal.entropy().item()
    error = (truth.P / 2 / 400) ** 0.5  # of the mean of ½ χ²(P)
    middle = 0.5 * (found.lower + found.upper).mean().item()
    assert middle == pytest.approx(-entropy, abs=4 * error)


# ---------------------------------------------------------------- the gap


def vamp_model(truth: LinearGaussian, components: int) -> flowvae.VAE:
    model = linear_model(truth, shift=0.4, K=0)
    prior = VampPrior(truth.P, components, None).double()
    return flowvae.VAE(
        model.encoder, model.posterior_head, prior, model.decoder, model.likelihood,
        latent_dim=truth.D, data_shape=(truth.P,),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("components", [1, 6, 7])
def test_a_fitted_posterior_leaves_a_prior_of_the_same_head_alone(components):
    """With 6 data and 6 pseudo-inputs, offsets of the data once reached the prior."""
    truth = LinearGaussian(D=2, P=4, sigma=0.5)
    model, x = vamp_model(truth, components), truth.data(6)
    exact = quadrature(model, x)
    gaps = inference_gaps(
        model, x, log_prob=exact.log_prob, steps=200, samples=2000, generator=seeded()
    )
    assert (gaps["fitted_elbo"] < exact.log_prob + 5 * gaps["fitted_elbo_error"] + 2e-3).all()
    assert (gaps["amortization_gap"] > -5 * gaps["elbo_error"]).all()
    if components == 1:  # p(z|x) is Gaussian and nearly diagonal: nothing of a gap stays
        assert gaps["approximation_gap"].abs().max() < 0.3


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


# ---------------------------------------------------------------- what log p(x) is


def test_what_a_likelihood_measures():
    numeric, binary = Column("a", "numeric"), Column("b", "binary", ("x", "y"))
    expected = {
        Bernoulli(): ("probability", "pseudo-likelihood"),
        ContinuousBernoulli(): ("density", "density"),
        Gaussian(): ("density", "density"),
        **dict.fromkeys(
            (DiscretizedLogistic(), DiscretizedLogisticMixture(), Categorical(4), Poisson(),
             NegativeBinomial(), MixedColumns([binary])),
            ("probability", "probability"),
        ),
        MixedColumns([numeric]): ("density", "density"),
        MixedColumns([numeric, binary]): ("density and probability", "density and probability"),
        nn.Identity(): ("density", "density"),
    }  # fmt: skip
    for likelihood, measures in expected.items():
        assert tuple(measure_of(likelihood, binary) for binary in (True, False)) == measures


def test_runs_that_measure_something_else_are_not_compared(tmp_path):
    counts = np.random.default_rng(0).poisson(3.0, (80, 4)).astype(float)
    np.save(tmp_path / "counts.npy", counts)
    runs = [
        flowvae.train(
            "original", data=str(tmp_path / "counts.npy"), likelihood=name, epochs=1,
            hidden_dims=(4,), evaluation_samples=2, out=tmp_path / name, progress=False,
        )
        for name in ("poisson", "gaussian", "negative_binomial")
    ]  # fmt: skip
    with pytest.raises(flowvae.UserError, match="a density in .*gaussian and a probability in"):
        flowvae.compare(runs[0], runs[1], progress=False)
    found = flowvae.compare(runs[0], runs[2], samples=2, progress=False)
    assert found.summary["measure"] == "probability"
    assert found.summary["runs"][0]["iw_bound_bits_per_dim"] is not None

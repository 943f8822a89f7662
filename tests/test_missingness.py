"""Values that are not missing at random: against integrals over what is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special
from torch import Tensor
from torch.nn.functional import logsigmoid

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Column
from flowvae.errors import UserError
from flowvae.evaluation import bdmc
from flowvae.evaluation.ais import _simulated
from flowvae.imputation import impute
from flowvae.likelihoods import Bernoulli, Gaussian, Poisson
from flowvae.likelihoods.columns import MixedColumns
from flowvae.likelihoods.real import GaussianValues
from flowvae.missingness import SelfMasking
from tests.helpers.conditional_gaussian import ConditionalGaussian

NAN = math.nan
PETS = [
    Column("age", "numeric"),
    Column("sex", "binary", ("female", "male")),
    Column("pet", "categorical", ("cat", "dog", "cow")),
]


def masking(slope: Tensor, offset: Tensor, columns: list[Column] | None = None) -> SelfMasking:
    found = SelfMasking(len(slope), columns).double()
    with torch.no_grad():
        found.raw_slope.copy_(slope / 20)
        found.raw_offset.copy_(offset / 20)
    torch.testing.assert_close(found.slope.detach(), slope)
    return found


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def moments(loc: float, sigma: float, a: float, b: float) -> tuple[float, float]:
    """log E[σ(a + b x)] and E[x σ(a + b x)] / E[σ(a + b x)] under N(loc, sigma²): a fine sum.

    σ(a + b x) moves the mass by at most |b| sigma deviations.
    """
    eps = np.linspace(-1, 1, 400_001) * (12 + abs(b) * sigma)
    x = loc + sigma * eps
    log_weights = -0.5 * eps**2 + special.log_expit(a + b * x)
    log_total = special.logsumexp(log_weights)
    mean = (np.exp(log_weights - log_total) * x).sum()
    return log_total + math.log((eps[1] - eps[0]) / math.sqrt(2 * math.pi)), mean


reals = st.floats(-3, 3)


@given(loc=reals, sigma=st.floats(0.05, 5), a=st.floats(-40, 40), b=st.floats(-4, 4))
def test_gaussian_agrees_with_quadrature(loc, sigma, a, b):
    p = Gaussian(sigma=sigma)(torch.tensor([loc], dtype=torch.float64))
    tensor = torch.tensor([[a], [b]], dtype=torch.float64)
    log_normaliser, tilted = p.tilted(*tensor)
    log_total, mean = moments(loc, sigma, a, b)
    assert log_normaliser.item() == pytest.approx(log_total, abs=1e-4)
    assert tilted.mean.item() == pytest.approx(mean, abs=3e-4 * (1 + sigma))


@pytest.mark.parametrize("slope", [0.5, 2.0, 5.0, -10.0, 20.0, 200.0])
def test_it_is_as_exact_in_the_tails_as_the_documents_say(slope):
    """To 1e-4 nats while |b| σ is at most 20, wherever the curve rises, and to 5e-3 at 200."""
    p = Gaussian(sigma=1.0)(torch.zeros(1, dtype=torch.float64))
    for middle in np.linspace(-8, 8, 33):
        a = -slope * middle
        tensors = torch.tensor([[a], [slope]], dtype=torch.float64)
        log_normaliser, _ = p.tilted(*tensors)
        expected = moments(0.0, 1.0, a, slope)[0]
        assert log_normaliser.item() == pytest.approx(expected, abs=1e-4 if slope <= 20 else 5e-3)


def test_its_gradient_is_that_of_the_integral():
    """∂ log E[σ(a + b x)] by finite differences of the fine sum, also where the curve is steep."""
    for given_ in ((0.3, 0.1, -1.0, 2.5), (1.0, 0.7, 4.0, -6.0), (-2.0, 0.0, 9.0, 12.0)):
        at = torch.tensor(given_, dtype=torch.float64, requires_grad=True)
        p = GaussianValues(at[:1], at[1:2])
        (found,) = torch.autograd.grad(p.tilted(at[2:3], at[3:])[0], at)
        for k, step in enumerate(1e-4 * np.eye(4)):
            ends = [
                moments(loc, math.exp(log_sigma), a, b)[0]
                for loc, log_sigma, a, b in (given_ - step, given_ + step)
            ]
            assert found[k].item() == pytest.approx((ends[1] - ends[0]) / 2e-4, abs=1e-3)


def test_every_value_has_its_own_deviation():
    generator = torch.Generator().manual_seed(3)
    outputs, tensors = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    (a, b), p = tensors[:2, :4], Gaussian(sigma="per_pixel")(outputs)
    log_normaliser, tilted = p.tilted(a, b)
    sigma = p.tensors()["log_sigma"].exp()
    assert log_normaliser.shape == tilted.mean.shape == (3, 4)
    for row, column in ((0, 1), (2, 3)):
        loc, at = outputs[row, column].item(), (row, column)
        log_total, mean = moments(loc, sigma[at].item(), a[column].item(), b[column].item())
        assert log_normaliser[at].item() == pytest.approx(log_total, abs=1e-5)
        assert tilted.mean[at].item() == pytest.approx(mean, abs=1e-5)
    drawn = tilted.sample((20_000,), generator).mean(0)
    torch.testing.assert_close(drawn, tilted.mean, atol=0.08, rtol=0)


def test_draws_of_a_gaussian_that_is_missing_have_its_quantiles():
    p = Gaussian(sigma=1.5)(torch.full((1,), 0.3, dtype=torch.float64))
    a, b = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([2.5], dtype=torch.float64)
    _, tilted = p.tilted(a, b)
    drawn = tilted.sample((200_000,), torch.Generator().manual_seed(0))[:, 0].numpy()
    total = math.exp(moments(0.3, 1.5, -1.0, 2.5)[0])

    def density(x: float) -> float:
        eps = (x - 0.3) / 1.5
        return math.exp(-0.5 * eps * eps) / (1.5 * math.sqrt(2 * math.pi)) * sigmoid(-1 + 2.5 * x)

    for at in (-0.5, 0.5, 1.0, 2.0, 3.5):
        expected = integrate.quad(density, -15, at)[0] / total
        assert np.mean(drawn < at) == pytest.approx(expected, abs=4e-3)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_it_is_finite_at_large_parameters_in_float32(scale):
    generator = torch.Generator().manual_seed(0)
    loc, a, b = (scale * torch.randn(50, generator=generator) for _ in range(3))
    a.requires_grad_()
    b.requires_grad_()
    for likelihood in (Gaussian(sigma=1.0), Bernoulli()):
        log_normaliser, tilted = likelihood(loc.clone().requires_grad_()).tilted(a, b)
        assert log_normaliser.isfinite().all()
        assert (log_normaliser <= 1e-5).all()
        for grad in torch.autograd.grad(log_normaliser.sum(), [a, b]):
            assert grad.isfinite().all()
        drawn = tilted.sample((100,), generator)
        assert drawn.isfinite().all()
        assert tilted.mean.isfinite().all()


def test_bernoulli_and_categories_are_sums():
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    missingness = masking(b, a, PETS)
    likelihood = MixedColumns(PETS)
    p = likelihood(torch.randn(6, generator=generator, dtype=torch.float64))
    at_zero, at_one = a[1].sigmoid(), (a[1] + b[1]).sigmoid()
    male, pets = p.mean[1], p.mean[2:]
    missing_pet = (a[2] + b[2:]).sigmoid()

    x = torch.tensor([0.4, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    seen_age, seen_pet = 1 - (a[0] + 0.4 * b[0]).sigmoid(), 1 - missing_pet[1]
    torch.testing.assert_close(
        missingness.log_prob(p, x), (seen_age * (1 - at_one) * seen_pet).log()
    )
    sex_gone = x.clone()
    sex_gone[1] = NAN
    sex = male * at_one + (1 - male) * at_zero
    torch.testing.assert_close(missingness.log_prob(p, sex_gone), (seen_age * sex * seen_pet).log())
    pet_gone = x.clone()
    pet_gone[2:] = NAN
    pet = (pets * missing_pet).sum()
    torch.testing.assert_close(
        missingness.log_prob(p, pet_gone), (seen_age * (1 - at_one) * pet).log()
    )
    mean = missingness.given_missing(p).mean
    torch.testing.assert_close(mean[1], male * at_one / sex)
    torch.testing.assert_close(mean[2:], pets * missing_pet / pet)
    drawn = missingness.given_missing(p).sample((100_000,), generator).mean(0)
    torch.testing.assert_close(drawn[1:], mean[1:], atol=6e-3, rtol=0)


@pytest.mark.parametrize("which", [0, 3])
def test_log_prob_and_what_is_filled_in_agree_with_an_integral(which):
    """p(x_obs, s) = p(x_obs) Π_obs (1 - σ) E[σ(a + b x_mis) | x_obs], and E[x_mis | x_obs, s]."""
    truth = ConditionalGaussian()
    model = truth.model()
    x, y = truth.data(3)
    x[:, which] = NAN
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, truth.P, generator=generator, dtype=torch.float64)
    model.missingness = masking(b, a)
    rows = torch.cat([x, y], 1)
    there = torch.where(x.isnan(), -torch.inf, a + b * x)
    seen = truth.log_prob(x, y) + logsigmoid(-there).sum(1)
    bound = model.iw_bound(rows, 40_000, torch.Generator().manual_seed(0))
    filled = impute(model, rows, samples=40_000, draws=4000, interval=0.9)
    for row, p in enumerate(truth.missing(x, y)):
        sigma = p.covariance_matrix.sqrt().item()
        log_total, mean = moments(p.loc.item(), sigma, a[which].item(), b[which].item())
        assert bound[row].item() == pytest.approx(seen[row].item() + log_total, abs=0.02)
        assert filled.mean[row, which].item() == pytest.approx(mean, abs=0.03)
        assert filled.draws[:, row, which].mean().item() == pytest.approx(mean, abs=0.12)


def test_pairs_are_those_of_log_joint():
    truth = ConditionalGaussian()
    model = truth.model()
    x, y = truth.data(4)
    x[0, 1] = x[2, 3] = NAN
    a, b = torch.randn(2, truth.P, dtype=torch.float64)
    model.missingness = masking(b, a)
    rows, z = torch.cat([x, y], 1), torch.randn(6, truth.D, dtype=torch.float64)
    expected = torch.stack([model.log_joint(rows, each.expand(4, -1)) for each in z], 1)
    torch.testing.assert_close(model.log_joint_pairs(rows, z), expected)
    assert model.log_joint_pairs(rows[:0], z).shape == (0, 6)


def test_where_the_value_does_not_matter_it_is_the_log_prob_of_a_coin():
    truth = ConditionalGaussian()
    model = truth.model()
    x, y = truth.data(5)
    x[0, 1] = x[2, 3] = x[2, 4] = NAN
    rows = torch.cat([x, y], 1)
    z = torch.randn(5, truth.D, dtype=torch.float64)
    at_random = model.log_joint(rows, z)
    a = torch.randn(truth.P, dtype=torch.float64)
    model.missingness = masking(torch.zeros_like(a), a)
    coin = torch.where(x.isnan(), logsigmoid(a), logsigmoid(-a)).sum(1)
    torch.testing.assert_close(model.log_joint(rows, z), at_random + coin)


def test_draws_of_the_mask_are_as_frequent_as_it_says():
    a, b = torch.randn(2, 5, dtype=torch.float64)
    missingness = masking(b, a, PETS)
    x = torch.tensor([0.7, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64).expand(40_000, -1)
    drawn = missingness.draw(x, torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, 2], drawn[:, 4])
    logits = torch.stack([a[0] + 0.7 * b[0], a[1] + b[1], a[2] + b[4]])
    share = drawn[:, :3].double().mean(0)
    torch.testing.assert_close(share, logits.sigmoid(), atol=0.015, rtol=0)


def test_simulated_data_have_gaps_of_the_model_not_of_other_data():
    truth = ConditionalGaussian()
    model = truth.model()
    x, y = truth.data(1)
    a, b = torch.randn(2, truth.P, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    model.missingness = masking(b, a)
    like = torch.cat([x.fill_(NAN), y], 1)
    _, rows = _simulated(model, 20_000, like, torch.Generator().manual_seed(0))
    p = truth.marginal(y)
    sigma = p.covariance_matrix[0].diagonal().sqrt()
    expected = [
        math.exp(moments(*each)[0])
        for each in zip(p.loc[0].tolist(), sigma.tolist(), a.tolist(), b.tolist(), strict=True)
    ]
    gone = rows[:, : truth.P].isnan().double().mean(0)
    assert gone.tolist() == pytest.approx(expected, abs=0.02)


def test_annealing_from_both_sides_agrees_on_data_and_masks_of_the_model():
    truth = ConditionalGaussian()
    model = truth.model()
    x, y = truth.data(60)
    a, b = torch.randn(2, truth.P, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    model.missingness = masking(4 * b.sign(), a)
    found = bdmc(model, 60, like=torch.cat([x, y], 1), chains=8, temperatures=300)
    apart = found.upper - found.lower
    assert apart.mean().item() == pytest.approx(0, abs=0.1)


def test_what_cannot_be_is_said_in_one_line():
    with pytest.raises(UserError, match="expected missing=model beside self_masking, got missing"):
        flowvae.build_vae(resolve_config(missingness="self_masking"), (4,))
    config = resolve_config(missingness="self_masking", missing="model", likelihood="poisson")
    with pytest.raises(UserError, match="missingness: expected a likelihood that knows"):
        flowvae.build_vae(config, (4,))
    for likelihood in ("gaussian", "bernoulli"):  # they know of no one-hot codes
        config = resolve_config(missingness="self_masking", missing="model", likelihood=likelihood)
        with pytest.raises(UserError, match="expected likelihood=mixed for a table"):
            flowvae.build_vae(config, (5,), columns=PETS)
    parts = ConditionalGaussian().model()
    with pytest.raises(ValueError, match="missingness: expected missing=True beside it"):
        flowvae.VAE(
            parts.encoder, parts.posterior_head, parts.prior, parts.decoder,
            parts.likelihood, latent_dim=2, data_shape=(5,), missingness=SelfMasking(5),
        )  # fmt: skip
    with pytest.raises(TypeError, match="expected a distribution of independent values"):
        SelfMasking(2).log_prob(torch.distributions.Normal(0, 1), torch.zeros(2))
    with pytest.raises(TypeError, match="expected a likelihood that knows"):
        SelfMasking(2).log_prob(Poisson()(torch.zeros(2)), torch.zeros(2))

"""Imputation against the closed form of a linear Gaussian model, whatever is missing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import flowvae
from flowvae import UserError, vae
from flowvae.config import resolve_config
from flowvae.data.columns import Column
from flowvae.distributions import FullGaussian
from flowvae.imputation import Imputed, impute
from flowvae.registry import LIKELIHOODS
from tests.helpers.likelihoods import TABLE
from tests.helpers.linear_gaussian import LinearGaussian, linear_model

NAN = math.nan


class GivenWhatIsThere(nn.Module):
    """q(z|x_obs) of a linear Gaussian model: exact, or off by a shift and a factor of L."""

    def __init__(self, truth: LinearGaussian, shift: float, widen: float) -> None:
        super().__init__()
        self.truth, self.shift, self.widen = truth, shift, widen

    def forward(self, x: Tensor) -> FullGaussian:
        truth, there = self.truth, (~x.isnan()).to(x.dtype)
        W = there[..., None] * truth.W
        precision = torch.eye(truth.D, dtype=x.dtype) + W.mT @ W / truth.sigma**2
        covariance = torch.linalg.inv(precision)
        centred = torch.where(x.isnan(), 0.0, x - truth.c)
        mean = (covariance @ (W.mT @ centred[..., None]))[..., 0] / truth.sigma**2
        L = torch.linalg.cholesky(covariance)
        scale = L.diagonal(dim1=-2, dim2=-1)
        lower = (L / scale[..., None]).tril(-1)
        return FullGaussian(mean + self.shift, 2 * (self.widen * scale).log(), lower)


def model_of(truth: LinearGaussian, shift: float = 0.0, widen: float = 1.0) -> flowvae.VAE:
    model = linear_model(truth)
    model.posterior_head, model.missing = GivenWhatIsThere(truth, shift, widen), True
    return model


def ends(found: Imputed) -> tuple[Tensor, Tensor]:
    """Of intervals that were asked for."""
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def closed_form(truth: LinearGaussian, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what is missing of one datum, given what is there."""
    gone = x.isnan()
    mean, covariance = truth.marginal.mean, truth.marginal.covariance_matrix
    gain = covariance[gone][:, ~gone] @ torch.linalg.inv(covariance[~gone][:, ~gone])
    left = covariance[gone][:, gone] - gain @ covariance[~gone][:, gone]
    return mean[gone] + gain @ (x - mean)[~gone], left


def gaps(x: Tensor, share: float) -> Tensor:
    """Where values are to be missing, at random."""
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < share


def with_gaps(x: Tensor, share: float = 0.4) -> Tensor:
    return x.masked_fill(gaps(x, share), NAN)


masks = st.lists(st.booleans(), min_size=5, max_size=5).map(torch.tensor)


@given(mask=masks, seed=st.integers(0, 100), off=st.booleans())
def test_means_are_the_closed_form(mask, seed, off):
    truth = LinearGaussian()
    x = truth.data(1, seed).masked_fill(mask, NAN)
    model = model_of(truth, *(0.2, 1.2) if off else (0.0, 1.0))
    found = impute(model, x, samples=20_000, seed=seed)
    torch.testing.assert_close(found.mean[0, ~mask], x[0, ~mask], rtol=0, atol=0)
    if not mask.any():
        assert found.effective_samples.isnan().all()
        return
    mean, covariance = closed_form(truth, x[0])
    ess = found.effective_samples.item()
    assert (ess < 19_990) if off else ess == pytest.approx(20_000, rel=1e-9)
    # Σ w̃ E[x|z] has no more variance than x itself.
    error = (covariance.diagonal() / ess).sqrt()
    assert ((found.mean[0, mask] - mean).abs() < 5 * error).all()


@pytest.mark.parametrize("mask", ["11111", "10110", "00001"])
@pytest.mark.parametrize("off", [False, True])
def test_draws_have_the_moments_of_the_closed_form(mask, off):
    truth = LinearGaussian(diagonal=False)
    gone = torch.tensor([letter == "1" for letter in mask])
    x = truth.data(1, 3).masked_fill(gone, NAN)
    model = model_of(truth, *(0.2, 1.2) if off else (0.0, 1.0))
    found = impute(model, x, samples=40_000, draws=20_000, interval=0.8)
    mean, covariance = closed_form(truth, x[0])
    draws = found.draws[:, 0][:, gone]
    variance = covariance.diagonal()
    assert ((draws.mean(0) - mean).abs() < 5 * (variance / 15_000).sqrt()).all()
    got = torch.cov(draws.T).reshape(covariance.shape)
    outer = variance.outer(variance).sqrt()
    assert ((got - covariance).abs() < 0.06 * outer).all()
    assert (found.draws[:, 0][:, ~gone] == x[0, ~gone]).all()
    for end, quantile in zip(ends(found), (-1.2816, 1.2816), strict=True):  # Φ⁻¹ of 0.1 and 0.9
        expected = mean + quantile * variance.sqrt()
        assert ((end[0, gone] - expected).abs() < 0.05 * variance.sqrt()).all()
        assert (end[0, ~gone] == x[0, ~gone]).all()


def test_intervals_cover_as_often_as_they_say():
    truth = LinearGaussian()
    x = truth.data(400)
    gone = gaps(x, 0.4)
    found = impute(model_of(truth, 0.2, 1.2), x.masked_fill(gone, NAN), interval=0.9, samples=1000)
    low, high = ends(found)
    inside = (low <= x) & (x <= high)
    assert inside[gone].double().mean().item() == pytest.approx(0.9, abs=0.03)


def test_a_row_depends_on_the_seed_and_not_on_the_other_rows():
    truth = LinearGaussian()
    model = model_of(truth, 0.2, 1.2)
    x = with_gaps(truth.data(6))
    x[2, 1], x[4] = NAN, NAN
    options = {"draws": 3, "interval": 0.5, "samples": 50}
    found = impute(model, x, **options)
    other = x.clone()
    other[[0, 1, 3, 5]] = truth.data(4, seed=9)
    again, elsewhere = impute(model, x, **options), impute(model, other, **options)
    for name in ("mean", "draws", "low", "high", "effective_samples"):
        a, b, c = (getattr(each, name) for each in (found, again, elsewhere))
        assert torch.equal(a, b) or name == "effective_samples"
        rows = [2, 4]
        torch.testing.assert_close(
            a[:, rows] if name == "draws" else a[rows], c[:, rows] if name == "draws" else c[rows]
        )
    assert not torch.equal(found.draws, impute(model, x, **options, seed=1).draws)
    # Two rows of which nothing is known are two draws, not one twice.
    nothing = impute(model, torch.full((2, 5), NAN, dtype=torch.float64), draws=1).draws
    assert not torch.equal(nothing[0, 0], nothing[0, 1])


def test_little_is_decoded_at_once_and_the_answer_is_the_same(monkeypatch):
    truth = LinearGaussian()
    model = model_of(truth, 0.2, 1.2)
    x = with_gaps(truth.data(7))
    whole = impute(model, x, samples=90, draws=40)
    decoded: list[int] = []
    monkeypatch.setattr(vae, "_DECODED_AT_ONCE", {"cpu": 60})
    model.decoder.register_forward_hook(lambda _, z, out: decoded.append(out.numel()))
    parts = impute(model, x, samples=90, draws=40)
    assert max(decoded) <= 60
    torch.testing.assert_close(parts.mean, whole.mean)
    assert parts.draws.shape == whole.draws.shape


def built(data_dim: int, **settings) -> flowvae.VAE:
    columns = settings.pop("columns", None)
    condition = settings.pop("condition", None)
    config = resolve_config(missing="model", hidden_dims=(8,), num_flows=2, **settings)
    return flowvae.build_vae(config, (data_dim,), None, columns, condition).eval()


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name != "mixed"])
def test_every_likelihood(name):
    """Images of three channels, one pixel: what they hold is in every support."""
    settings = {"num_categories": 5} if name == "categorical" else {}
    config = resolve_config(likelihood=name, missing="model", hidden_dims=(8,), **settings)
    model = flowvae.build_vae(config, (2, 2, 3)).eval()
    x = torch.tensor([0.0, 1.0, 1.0]).repeat(3, 4)
    x[0, 3:9], x[1] = NAN, NAN
    found = impute(model, x.reshape(3, 2, 2, 3), draws=4, samples=30, interval=0.5)
    assert found.mean.isfinite().all()
    assert torch.equal(found.draws[:, ~found.missing], x[~found.missing].expand(4, -1))
    assert model.elbo(found.draws.flatten(0, 1)).isfinite().all()


def table_rows() -> Tensor:
    """An age, a colour of three and whether one smokes: parts of it, or nothing, are missing."""
    whole = torch.tensor([0.3, 0.0, 1.0, 0.0, 1.0])
    x = whole.repeat(4, 1)
    x[0, 1:4], x[1, 4], x[2] = NAN, NAN, NAN
    return x


def test_categories_have_probabilities_and_draws_are_categories():
    model = built(5, likelihood="mixed", columns=TABLE)
    found = impute(model, table_rows(), draws=2000)
    assert found.mean[[0, 2], 1:4].sum(1).tolist() == pytest.approx([1, 1], abs=1e-5)
    codes = found.draws[:, [0, 2], 1:4]
    assert (codes.sum(-1) == 1).all()
    assert ((codes == 0) | (codes == 1)).all()
    torch.testing.assert_close(codes.mean(0), found.mean[[0, 2], 1:4], atol=0.06, rtol=0)
    bits = found.draws[:, 1, 4]
    assert bits.mean().item() == pytest.approx(found.mean[1, 4].item(), abs=0.06)
    assert set(bits.tolist()) == {0.0, 1.0}


def test_a_conditional_model_imputes_under_the_condition():
    truth = LinearGaussian()
    plain = model_of(truth)

    class Shifted(nn.Module):
        """The decoder's answer, and ten more under the second class."""

        def __init__(self) -> None:
            super().__init__()
            self.plain = plain.decoder

        def forward(self, z: Tensor) -> Tensor:
            return self.plain(z[..., : truth.D]) + 10 * z[..., -1:]

    class Values(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return rows[..., : truth.P] - 10 * rows[..., -1:]

    model = model_of(truth)
    model.encoder, model.decoder = Values(), Shifted()
    model.condition = (Column("kind", "binary", ("low", "high")),)
    x = with_gaps(truth.data(3))
    low = impute(model, x, condition="low", draws=2)
    high = impute(model, x + 10, condition="high", draws=2)
    torch.testing.assert_close(high.mean, low.mean + 10)
    torch.testing.assert_close(high.draws, low.draws + 10)
    torch.testing.assert_close(low.mean, impute(plain, x).mean)
    with pytest.raises(UserError, match=r"condition: expected one for every row, got NaN"):
        impute(model, model.rows(x, torch.full((3, 1), NAN)))


def refused(message: str, model: flowvae.VAE, x: Tensor, **options) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        impute(model, x, **options)
    assert "\n" not in str(caught.value)


def test_bad_input_is_one_line():
    truth = LinearGaussian()
    model, x = model_of(truth), truth.data(2)
    refused(r"x: expected shape \(\.\.\., 5\)", model, x[:, :4])
    refused(r"x: expected data \(N, P\).* got \(5,\)", model, x[0])
    infinite = x.index_fill(1, torch.tensor(1), math.inf)
    refused("x: expected finite numbers.*got infinity", model, infinite)
    refused("samples: expected at least 1, got 0", model, x, samples=0)
    refused("draws: expected at least 0, got -1", model, x, draws=-1)
    refused("interval: .* between 0 and 1, got 1", model, x, interval=1)
    mask = torch.ones(2, 4, dtype=torch.bool)
    refused(r"missing: .* \(2, 5\), got bool \(2, 4\)", model, x, missing=mask)
    refused(r"missing: .* got float64 \(2, 5\)", model, x, missing=x)
    model.missing = False
    assert isinstance(impute(model, x), Imputed)  # nothing to do
    x[0, 0] = NAN
    refused("missing: expected a model trained with missing=model", model, x)
    rows = table_rows()
    rows[3, 2] = NAN
    table = built(5, likelihood="mixed", columns=TABLE)
    refused("x: column 'colour': expected all 3 numbers", table, rows)


def test_a_mask_says_what_is_missing_too():
    truth = LinearGaussian()
    model, x = model_of(truth), truth.data(3)
    mask = gaps(x, 0.5)
    found, expected = impute(model, x, missing=mask), impute(model, x.masked_fill(mask, NAN))
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.missing, mask)

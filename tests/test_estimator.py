"""The scikit-learn front: its own checks, and what it promises on top of them."""

from __future__ import annotations

import copy

import pytest

sklearn = pytest.importorskip("sklearn")

import pickle

import numpy as np
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import flowvae
from flowvae import FlowVAE, UserError
from flowvae.config.options import options_of
from flowvae.data.scaling import ColumnScaler
from flowvae.distributions import DiagonalGaussian, LatentDistribution
from flowvae.evaluation.common_noise import common_draws
from flowvae.registry import POSTERIORS
from flowvae.runs import write_model
from tests.helpers.making import seeded

SMALL = {"num_flows": 2, "hidden_dims": (8,), "epochs": 2, "num_samples": 4, "random_state": 0}


@parametrize_with_checks([FlowVAE(**SMALL, device="cpu")])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def correlated(count: int = 300, seed: int = 0) -> np.ndarray:
    """Three columns of different scales, two of them nearly one."""
    a, b = np.random.default_rng(seed).normal(size=(2, count))
    return np.column_stack([100 + 20 * a, 3 * a + 0.1 * b, b - 5])


@pytest.fixture(scope="module")
def fitted() -> FlowVAE:
    settings = {**SMALL, "epochs": 60, "num_samples": 32, "learning_rate": 0.02}
    return FlowVAE(**settings).fit(correlated())


def test_it_learns(fitted):
    assert fitted.elbo_[-1] > fitted.elbo_[0] + 0.5
    X = correlated(seed=1)
    far = X + np.array([0.0, 30.0, 0.0])  # breaks the tie between the first two columns
    assert (fitted.score_samples(far) < fitted.score_samples(X) - 5).mean() > 0.95
    residual = (fitted.reconstruct(X) - X) / X.std(0)
    assert (residual**2).mean() < 0.5
    again = fitted.inverse_transform(fitted.transform(X))
    assert (((again - X) / X.std(0)) ** 2).mean() < 0.6


def test_scores_are_log_densities():
    """exp of the bound is unbiased for p(x), so it integrates to 1 over the line."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(-4, 0.5, 200), rng.normal(3, 1.5, 200)])[:, None]
    settings = {**SMALL, "latent_dim": 1, "epochs": 20, "num_samples": 500, "learning_rate": 0.02}
    model = FlowVAE(**settings).fit(X)
    grid = np.linspace(-60, 60, 6001)[:, None]
    area = np.exp(model.score_samples(grid).astype(float)).sum() * (grid[1, 0] - grid[0, 0])
    assert area == pytest.approx(1.0, abs=0.03)


def test_units_of_the_data_change_the_density_and_nothing_else(fitted):
    X = correlated()
    other = clone(fitted).fit(X * 1000 + 7)
    shift = 3 * np.log(1000)
    np.testing.assert_allclose(
        other.score_samples(X * 1000 + 7), fitted.score_samples(X) - shift, atol=0.02
    )
    np.testing.assert_allclose(
        other.inverse_transform(other.transform(X * 1000 + 7)),
        fitted.inverse_transform(fitted.transform(X)) * 1000 + 7,
        rtol=1e-3,
        atol=1.0,
    )


def test_columns_far_from_zero_and_tiny_ones_are_told_apart():
    """Standardising is done in float64, and what is constant is told by proportion."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 1))
    places = np.column_stack([1.6e9 + 1e4 * x, 1e6 + x, 1e-15 * x, 0 * x + 0.1])
    model = FlowVAE(**SMALL).fit(places)
    found = ColumnScaler(model.columns_).encode(places, np.float32).numpy()
    expected = (x - x.mean()) / x.std()
    np.testing.assert_allclose(found[:, :3], np.repeat(expected, 3, 1), atol=1e-5)
    assert len(np.unique(found[:, 0])) == 300
    np.testing.assert_allclose(found[:, 3], 0, atol=1e-12)
    with pytest.raises(ValueError, match="finite variance"):
        FlowVAE(**SMALL).fit(x * 1e300)


def test_transform_is_the_posterior_mean():
    X = correlated()
    model = FlowVAE(**{**SMALL, "num_flows": 0, "num_samples": 4000}).fit(X)
    x = ColumnScaler(model.columns_).encode(X, np.float32)
    q = model.model_.posterior(x).base
    sigma = q.variance.sqrt().detach().numpy()
    assert (abs(model.transform(X) - q.mean.detach().numpy()) < 0.08 * sigma).all()


@pytest.mark.parametrize("posterior", list(POSTERIORS))
def test_every_row_has_the_same_noise(posterior):
    """All rows at once; each as it would be alone, and distributed as q is."""
    config = flowvae.Config(posterior=posterior, latent_dim=3, hidden_dims=(8,))
    model = flowvae.build_vae(config, (4,)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        z, log_q = common_draws(model, x, 4000, 0)
        torch.testing.assert_close(log_q, model.posterior(x).log_prob(z), rtol=1e-6, atol=1e-6)
        for row in range(5):
            alone, log_alone = common_draws(model, x[row : row + 1], 4000, 0)
            torch.testing.assert_close(z[:, row], alone[:, 0])
            torch.testing.assert_close(log_q[:, row], log_alone[:, 0])
        drawn = model.posterior(x).rsample((4000,), torch.Generator().manual_seed(1))
    error = (z.var(0) / 2000).sqrt()
    assert ((z.mean(0) - drawn.mean(0)).abs() < 5 * error).all()


def test_a_posterior_that_cannot_do_it_is_named(monkeypatch):
    monkeypatch.setattr(DiagonalGaussian, "at_noise", LatentDistribution.at_noise)
    model = flowvae.build_vae(flowvae.Config(posterior="gaussian", hidden_dims=(8,)), (4,))
    with pytest.raises(UserError, match="posterior: expected .* at_noise.*, got DiagonalGaussian"):
        common_draws(model, torch.zeros(2, 4), 3, 0)


@pytest.mark.parametrize("posterior", list(POSTERIORS))
def test_every_posterior(posterior):
    X = correlated(60)
    small = {"num_orthogonal": 2, "num_householder": 2, "hidden_dims": (8,)}
    has = options_of("posterior", posterior).model_fields
    settings = {f"posterior.{name}": value for name, value in small.items() if name in has}
    model = FlowVAE(posterior, **{**SMALL, "epochs": 1}, settings=settings).fit(X)
    scores = model.score_samples(X)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(model.score_samples(X[::-1])[::-1], scores, rtol=1e-7)
    assert model.reconstruct(X).shape == X.shape


def test_partial_fit_goes_on():
    X = correlated()
    whole = FlowVAE(**SMALL).fit(X)
    steps = FlowVAE(**SMALL).partial_fit(X).partial_fit(X)
    np.testing.assert_array_equal(whole.transform(X), steps.transform(X))
    assert len(steps.elbo_) == 2
    kept = pickle.loads(pickle.dumps(steps))  # noqa: S301  our own bytes
    np.testing.assert_array_equal(kept.score_samples(X), steps.score_samples(X))
    assert len(kept.partial_fit(X).elbo_) == 3


def test_warm_start_goes_on():
    X = correlated()
    whole = FlowVAE(**{**SMALL, "epochs": 5}).fit(X)
    parts = FlowVAE(**{**SMALL, "epochs": 2}, warm_start=True).fit(X).set_params(epochs=3).fit(X)
    np.testing.assert_array_equal(whole.transform(X), parts.transform(X))
    assert parts.elbo_ == whole.elbo_
    cosine = {"schedule": "cosine", "averaging": 0.9}
    model = FlowVAE(**{**SMALL, "epochs": 2}, settings=cosine, warm_start=True).fit(X).fit(X)
    assert len(model.elbo_) == model.config_.training.epochs == 4
    kept = pickle.loads(pickle.dumps(parts))  # noqa: S301  our own bytes
    assert len(kept.fit(X).elbo_) == 8
    with pytest.raises(ValueError, match=r"warm_start: .* got another learning_rate"):
        parts.set_params(learning_rate=0.1).fit(X)
    parts.set_params(learning_rate=1e-3, num_flows=7)
    with pytest.raises(ValueError, match=r"warm_start: .* got another posterior"):
        parts.fit(X)
    again = parts.set_params(warm_start=False).fit(X)
    assert len(again.elbo_) == 3


def test_pipeline_and_search():
    X = correlated()
    pipeline = make_pipeline(StandardScaler(), FlowVAE(**SMALL))
    search = GridSearchCV(pipeline, {"flowvae__num_flows": [0, 2]}, cv=2).fit(X)
    assert set(search.cv_results_["param_flowvae__num_flows"]) == {0, 2}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.transform(X).shape == (300, 2)


def test_refined_rows_score_higher_and_depend_on_no_other(fitted):
    X = correlated()
    refined = copy.copy(fitted).set_params(refine=6)
    assert refined.score(X) > fitted.score(X) - 0.01
    np.testing.assert_allclose(refined.transform(X[3:4]), refined.transform(X)[3:4], rtol=1e-6)
    assert not np.allclose(refined.transform(X), fitted.transform(X))


def test_save_and_load(fitted, tmp_path):
    file = tmp_path / "model.safetensors"
    fitted.save(file)
    loaded = FlowVAE.load(file)
    X = correlated(seed=2)
    assert loaded.get_params() == fitted.get_params()
    for name in ("transform", "score_samples", "reconstruct"):
        np.testing.assert_array_equal(getattr(loaded, name)(X), getattr(fitted, name)(X))
    assert loaded.partial_fit(X).elbo_[:-1] == fitted.elbo_
    assert flowvae.load(file).columns == fitted.columns_
    write_model(tmp_path / "other.safetensors", flowvae.load(file), fitted.config_)
    with pytest.raises(UserError, match=r"expected a file that FlowVAE\.save wrote"):
        FlowVAE.load(tmp_path / "other.safetensors")


def test_samples_are_draws_in_the_units_of_the_data(fitted):
    X, drawn = correlated(), fitted.sample(4000, random_state=1)
    np.testing.assert_array_equal(drawn, fitted.sample(4000, random_state=1))
    assert (abs(drawn.mean(0) - X.mean(0)) < 0.5 * X.std(0)).all()
    assert np.corrcoef(drawn[:, :2].T)[0, 1] > 0.8


def test_pixels_under_a_bernoulli_likelihood():
    X = np.random.default_rng(0).integers(0, 2, (50, 6)).astype(float)
    model = FlowVAE(likelihood="bernoulli", **SMALL).fit(X)
    assert model.columns_ is None
    assert set(np.unique(model.sample(20))) <= {0.0, 1.0}
    assert (model.score_samples(X) <= 0).all()
    doors = [clone(model).fit, clone(model).partial_fit, model.partial_fit, model.transform]
    for door in [*doors, model.score_samples, model.score, model.reconstruct]:
        with pytest.raises(ValueError, match=r"likelihood: bernoulli expects .* from 0 to 5"):
            door(5 * X)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_eight_bit_values_in_either_precision(dtype):
    X = (np.random.default_rng(0).integers(0, 256, (30, 4)) / 255).astype(dtype)
    model = FlowVAE(likelihood="discretized_logistic", **SMALL).fit(X)
    assert (model.score_samples(X) <= 0).all()
    with pytest.raises(ValueError, match="likelihood: discretized_logistic expects 8-bit values"):
        model.score_samples(0.99 * X)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"posterior": "best"}, "posterior: expected one of .* got 'best'"),
        ({"num_flows": -1}, "num_flows: .* got -1"),
        ({"num_samples": 0}, "num_samples: expected at least 1, got 0"),
        ({"standardize": "yes"}, "standardize: expected True, False or 'auto', got 'yes'"),
        ({"settings": {"nonsense": 1}}, "nonsense: no such field"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        FlowVAE(**{**SMALL, **change}).fit(correlated())


def test_bad_calls(fitted):
    with pytest.raises(ValueError, match="X: expected 2 columns, the latent dimensions, got 3"):
        fitted.inverse_transform(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="n_samples: expected at least 1, got 0"):
        fitted.sample(0)


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


def test_parameters_of_numpy_are_saved(tmp_path):
    """As a search over ``np.arange`` leaves them."""
    X = correlated()
    settings = {"free_bits": np.float64(0.5)}
    fitted = FlowVAE(
        latent_dim=np.int64(1), epochs=1, hidden_dims=np.array([4]), settings=settings,
        learning_rate=np.float32(0.01),
    ).fit(X)  # fmt: skip
    fitted.save(tmp_path / "m.safetensors")
    loaded = FlowVAE.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))
    assert loaded.get_params()["latent_dim"] == 1

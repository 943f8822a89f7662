"""Imputation in scikit-learn: its own checks, and gaps in FlowVAE and FlowImputer."""

from __future__ import annotations

import pickle

import pytest

sklearn = pytest.importorskip("sklearn")

import numpy as np
from sklearn.base import clone
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from flowvae import FlowImputer, FlowVAE, UserError

SMALL = {"num_flows": 2, "hidden_dims": (8,), "epochs": 2, "num_samples": 4, "random_state": 0}


@parametrize_with_checks(
    [
        FlowImputer(FlowVAE(**SMALL, device="cpu"), num_samples=8, random_state=0),
        FlowVAE(**SMALL, device="cpu", missing="model"),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def table(count: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four columns of different scales that two numbers explain, whole and with gaps."""
    rng = np.random.default_rng(seed)
    W = np.array([[1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, -1.0]])
    X = rng.normal(size=(count, 2)) @ W + 0.2 * rng.normal(size=(count, 4))
    X = X * [1, 10, 0.1, 1] + [5, -100, 0, 1000]
    return X, np.where(rng.random(X.shape) < 0.2, np.nan, X)


@pytest.fixture(scope="module")
def fitted() -> FlowImputer:
    settings = {**SMALL, "hidden_dims": (32,), "epochs": 100, "learning_rate": 0.01}
    return FlowImputer(FlowVAE("gaussian", **{**settings, "num_flows": 0}), random_state=0).fit(
        table()[1]
    )


def scaled_error(filled: np.ndarray, X: np.ndarray, gaps: np.ndarray) -> float:
    return float(np.sqrt((((filled - X) / X.std(0))[gaps] ** 2).mean()))


def test_it_fills_in_better_than_means_and_knows_how_well(fitted):
    X, holes = table(seed=1)
    gaps = np.isnan(holes)
    filled = fitted.transform(holes)
    assert np.array_equal(filled[~gaps], X[~gaps])
    means = SimpleImputer().fit(table()[1]).transform(holes)
    assert scaled_error(filled, X, gaps) < 0.75 * scaled_error(means, X, gaps)
    found = fitted.impute(holes, draws=20, interval=0.9)
    low, high = found.low, found.high
    inside = (low <= X) & (high >= X)
    assert 0.8 < inside[gaps].mean() < 0.96
    # A draw errs as the mean does, and by its own spread once more.
    draws = np.mean([scaled_error(draw, X, gaps) for draw in found.draws])
    ratio = draws / scaled_error(filled, X, gaps)
    assert 1.2 < ratio < 1.6
    assert np.array_equal(found.draws[:, ~gaps], np.broadcast_to(X[~gaps], (20, (~gaps).sum())))
    assert np.nanmedian(found.effective_samples) > 50


def test_a_row_is_filled_as_it_would_be_alone(fitted):
    holes = table(seed=1)[1]
    filled = fitted.transform(holes)
    rows = np.random.default_rng(0).permutation(len(holes))[:20]
    np.testing.assert_allclose(fitted.transform(holes[rows]), filled[rows], rtol=1e-7)
    nothing = np.full((2, 4), np.nan)
    np.testing.assert_allclose(*fitted.transform(nothing))
    assert not np.allclose(*fitted.impute(nothing, draws=1).draws[0])


def test_it_is_a_transformer_like_others(fitted):
    holes = table(seed=1)[1]
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301  our own
    assert np.array_equal(again.transform(holes), fitted.transform(holes))
    drawing = FlowImputer(FlowVAE(**SMALL), sample_posterior=True, random_state=0).fit(holes)
    draw = drawing.transform(holes)
    assert np.array_equal(draw, drawing.transform(holes))
    assert not np.array_equal(draw, clone(drawing).set_params(random_state=1).fit(holes))
    X, y = holes[:, :3], np.nan_to_num(holes[:, 3], nan=1000.0)
    pipe = make_pipeline(FlowImputer(FlowVAE(**SMALL), random_state=0), LinearRegression())
    search = GridSearchCV(pipe, {"flowimputer__estimator__latent_dim": [1, 2]}, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    alone = FlowImputer(FlowVAE(**SMALL), random_state=0)
    search = GridSearchCV(alone, {"estimator__epochs": [1, 20]}, cv=2).fit(holes)
    assert search.best_params_ == {"estimator__epochs": 20}


def test_columns_without_any_value_are_dropped_or_kept():
    X, holes = table(60)
    holes[:, 1] = np.nan
    dropping = FlowImputer(FlowVAE(**SMALL), random_state=0).fit(holes)
    assert dropping.transform(X).shape == (60, 3)
    assert list(dropping.get_feature_names_out()) == ["x0", "x2", "x3"]
    keeping = clone(dropping).set_params(keep_empty_features=True).fit(holes)
    filled = keeping.transform(holes)
    assert list(keeping.get_feature_names_out()) == ["x0", "x1", "x2", "x3"]
    assert (filled[:, 1] == 0).all()
    assert np.array_equal(filled[:, [0, 2, 3]], dropping.transform(holes))
    assert np.array_equal(keeping.transform(X), X)
    assert keeping.impute(holes, draws=2).draws.shape == (2, 60, 4)
    with pytest.raises(UserError, match="X: expected a value in one column at least, got NaN"):
        dropping.fit(np.full((5, 2), np.nan))
    with pytest.raises(ValueError, match=r"X: expected a value in every column.* 1 of 4: x_2$"):
        FlowVAE(**SMALL, missing="model").fit(holes)


def test_flowvae_scores_what_is_there():
    """A row without its second column has the density of the others, in their units."""
    X, holes = table()
    settings = {**SMALL, "missing": "model", "num_samples": 200}
    model = FlowVAE(**settings).fit(holes)
    wide = clone(model).fit(holes * 1000)
    there = (~np.isnan(holes)).sum(1)
    shift = there * np.log(1000)
    np.testing.assert_allclose(
        wide.score_samples(holes * 1000), model.score_samples(holes) - shift, atol=0.02
    )
    assert wide.elbo_[0] == pytest.approx(model.elbo_[0] - shift.mean(), abs=0.02)
    nothing = np.full((1, 4), np.nan)  # the probability of no statement at all is 1
    assert model.score_samples(nothing)[0] == pytest.approx(0, abs=0.2)
    assert model.transform(holes).shape == (300, 2)
    assert np.isfinite(model.reconstruct(holes)).all()
    model.partial_fit(holes)
    # Without gaps nothing is changed by what is told of gaps but the encoder's further inputs.
    assert np.array_equal(model.impute(X).filled, X)


def test_a_column_s_mean_is_of_what_is_there():
    holes = table()[1]
    model = FlowVAE(**SMALL, missing="model").fit(holes)
    assert model.columns_ is not None
    found = [(column.mean, column.scale) for column in model.columns_]
    np.testing.assert_allclose(found, np.stack([np.nanmean(holes, 0), np.nanstd(holes, 0)], 1))


def test_it_is_kept_in_a_file(tmp_path):
    holes = table()[1]
    model = FlowVAE(**SMALL, missing="model").fit(holes)
    model.save(tmp_path / "model.safetensors")
    again = FlowVAE.load(tmp_path / "model.safetensors")
    assert again.missing == "model"
    assert np.array_equal(again.impute(holes).filled, model.impute(holes).filled)


def test_bad_input():
    X, holes = table(40)
    with pytest.raises(ValueError, match="contains NaN"):
        FlowVAE(**SMALL).fit(holes)
    with pytest.raises(ValueError, match="contains NaN"):
        FlowVAE(**SMALL).fit(X).impute(holes)
    with pytest.raises(ValueError, match="missing: expected 'refuse' or 'model', got 'impute'"):
        FlowVAE(**SMALL, missing="impute").fit(X)
    model = FlowImputer(FlowVAE(**SMALL)).fit(holes)
    with pytest.raises(ValueError, match="infinity"):
        model.transform(np.where(np.isnan(holes), np.inf, holes))
    with pytest.raises(ValueError, match="has 3 features"):
        model.transform(holes[:, :3])
    with pytest.raises(UserError, match="interval: expected a share"):
        model.impute(holes, interval=2)
    with pytest.raises(UserError, match="samples: expected at least 1"):
        FlowImputer(FlowVAE(**SMALL), num_samples=0).fit(holes).transform(holes)
    with pytest.raises(ValueError, match="another missing"):
        FlowVAE(**SMALL, warm_start=True).fit(X).set_params(missing="model").fit(X)

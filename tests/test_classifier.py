"""The scikit-learn classifier: its own checks, labels that are missing, and Bayes' rule."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

pytest.importorskip("sklearn")

import numpy as np
import torch
from sklearn.base import clone, is_classifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import flowvae
from flowvae import FlowVAE, FlowVAEClassifier, UserError

SMALL = {"num_flows": 2, "hidden_dims": (16,), "num_samples": 8, "random_state": 0, "device": "cpu"}
QUICK = {**SMALL, "epochs": 120, "learning_rate": 0.02}


@parametrize_with_checks([FlowVAEClassifier(**QUICK)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def two_kinds(count: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of different means and spreads, in units of their own."""
    rng = np.random.default_rng(seed)
    y = rng.choice(["cat", "dog"], count, p=[0.7, 0.3])
    dog = (y == "dog")[:, None]
    X = rng.normal(np.where(dog, [3.0, 300.0], [0.0, 100.0]), np.where(dog, 2.0, [1.0, 60.0]))
    return X, y


@pytest.fixture(scope="module")
def fitted() -> FlowVAEClassifier:
    return FlowVAEClassifier(**{**QUICK, "num_samples": 64}).fit(*two_kinds())


def test_bayes_rule_holds_among_what_it_gives(fitted):
    X, y = two_kinds(seed=1)
    assert is_classifier(fitted)
    assert fitted.classes_.tolist() == ["cat", "dog"]
    assert fitted.score(X, y) > 0.9
    every = np.stack([fitted.score_samples(X, [name] * len(X)) for name in fitted.classes_], 1)
    joint = every + np.log(fitted.class_count_ / fitted.class_count_.sum())
    total = np.logaddexp.reduce(joint, axis=1)
    np.testing.assert_allclose(fitted.score_samples(X), total, atol=1e-9)
    np.testing.assert_allclose(fitted.predict_log_proba(X), joint - total[:, None], atol=1e-9)
    assert fitted.class_count_.tolist() == [
        (two_kinds()[1] == name).sum() for name in ("cat", "dog")
    ]


def test_log_p_of_a_class_is_that_of_the_class(fitted):
    """Against the normal density that the class is drawn from."""
    X, y = two_kinds(seed=2)
    cats = X[y == "cat"]
    truth = -0.5 * ((cats / [1.0, 60.0] - [0, 100 / 60]) ** 2 + np.log(2 * np.pi)).sum(1)
    truth -= np.log(60.0)
    found = fitted.score_samples(cats, ["cat"] * len(cats))
    assert abs(found.mean() - truth.mean()) < 0.3
    assert fitted.score_samples(cats, ["dog"] * len(cats)).mean() < truth.mean() - 3


def test_priors_move_the_answer_as_bayes_says(fitted):
    X = two_kinds(seed=1)[0]
    other = copy.deepcopy(fitted).set_params(priors=[1, 3])
    before, after = fitted.predict_log_proba(X), other.predict_log_proba(X)
    counts = fitted.class_count_
    shift = np.log(3) - np.log(counts[1] / counts[0])
    odds = (after[:, 1] - after[:, 0]) - (before[:, 1] - before[:, 0])
    np.testing.assert_allclose(odds, shift, atol=1e-9)
    for bad in ([1, 2, 3], [1, -1], [1, np.nan], [0, 1]):
        with pytest.raises(ValueError, match="prior: expected 2 positive numbers"):
            other.set_params(priors=bad).predict(X)


def test_latents_reconstructions_and_samples(fitted):
    X, y = two_kinds(seed=1)
    p = fitted.predict_proba(X)
    for give in (fitted.transform, fitted.reconstruct):
        each = [give(X, [name] * len(X)) for name in fitted.classes_]
        mean = p[:, :1] * each[0] + p[:, 1:] * each[1]
        np.testing.assert_allclose(give(X), mean, rtol=1e-6, atol=1e-6)
    own = fitted.reconstruct(X, y)
    assert (((own - X) / X.std(0)) ** 2).mean() < 0.6
    z = fitted.transform(X, y)
    assert fitted.inverse_transform(z).shape == fitted.inverse_transform(z, y).shape == X.shape
    dogs = fitted.sample(500, y="dog")
    assert abs(dogs.mean(0) - [3.0, 300.0]).max() < 25
    mixed = fitted.sample(4, y=["cat", "dog", "cat", "dog"])
    assert (mixed == fitted.sample(4, y=["cat", "dog", "cat", "dog"])).all()
    share = fitted.predict(fitted.sample(1000, random_state=1)) == "dog"
    assert share.mean() == pytest.approx(0.3, abs=0.08)
    assert list(fitted.get_feature_names_out()) == ["flowvaeclassifier0", "flowvaeclassifier1"]


def test_a_row_does_not_depend_on_the_others(fitted):
    X = two_kinds(seed=1)[0]
    alone = np.concatenate([fitted.predict_log_proba(row[None]) for row in X[:10]])
    np.testing.assert_allclose(alone, fitted.predict_log_proba(X)[:10], rtol=1e-10, atol=1e-12)


def test_copies(fitted, tmp_path):
    X = two_kinds(seed=1)[0]
    expected = fitted.predict_proba(X)
    assert (pickle.loads(pickle.dumps(fitted)).predict_proba(X) == expected).all()  # noqa: S301
    again = clone(fitted).fit(*two_kinds())
    np.testing.assert_allclose(again.predict_proba(X), expected)
    fitted.save(tmp_path / "a.safetensors")
    loaded = FlowVAEClassifier.load(tmp_path / "a.safetensors")
    assert (loaded.predict_proba(X) == expected).all()
    assert loaded.predict(X).dtype == fitted.classes_.dtype
    loaded.partial_fit(*two_kinds())
    model = flowvae.load(tmp_path / "a.safetensors")
    assert model.sample(3, condition="cat").shape == (3, 2)


def test_files_of_others_are_refused(fitted, tmp_path):
    file = tmp_path / "a.safetensors"
    FlowVAE(**SMALL, epochs=1).fit(two_kinds()[0]).save(file)
    with pytest.raises(UserError, match="expected the classes of a classifier, got none"):
        FlowVAEClassifier.load(file)
    fitted.save(file)
    with pytest.raises(UserError, match="parameters: .*unexpected keyword"):
        FlowVAE.load(file)


def test_in_a_pipeline_and_a_grid_search():
    X, y = two_kinds()
    numbers = (y == "dog").astype(int)
    pipe = make_pipeline(StandardScaler(), FlowVAEClassifier(**{**QUICK, "epochs": 20}))
    search = GridSearchCV(pipe, {"flowvaeclassifier__latent_dim": [1, 2]}, cv=2).fit(X, numbers)
    assert search.best_score_ > 0.8
    assert search.predict(X).dtype == numbers.dtype


@pytest.mark.parametrize("marker", [-1, None, float("nan"), "?"])
def test_rows_without_a_label_are_learned_from(marker, tmp_path):
    X, y = two_kinds(300)
    hidden = np.random.default_rng(7).random(len(y)) > 0.2
    if isinstance(marker, str):
        given = np.where(hidden, marker, y)
    elif marker is None:
        given = [None if hide else name for hide, name in zip(hidden, y, strict=True)]
    else:
        given = np.where(hidden, marker, (y == "dog") * 1)
    model = FlowVAEClassifier(**{**QUICK, "epochs": 30}, unlabelled=marker).fit(X, given)
    assert model.config_.objective.name == "m2"
    assert model.class_count_.sum() == (~hidden).sum()
    assert len(model.classes_) == 2
    names = model.classes_ if isinstance(marker, str) or marker is None else ["cat", "dog"]
    guess = np.asarray(names)[model.predict_proba(X).argmax(1)]
    assert (guess == y).mean() > 0.85
    assert model.score(X, given) == (guess == y)[~hidden].mean()
    twin = clone(model)
    assert twin.unlabelled is marker or twin.unlabelled == marker
    model.save(tmp_path / "m.safetensors")
    loaded = FlowVAEClassifier.load(tmp_path / "m.safetensors")
    assert (loaded.predict_proba(X) == model.predict_proba(X)).all()
    loaded.set_params(predict_with="bayes")
    assert not np.allclose(loaded.predict_proba(X), model.predict_proba(X), atol=1e-3)


def test_the_classifier_answers_in_float64_for_what_q_says():
    X, y = two_kinds()
    model = FlowVAEClassifier(**{**SMALL, "epochs": 3}, settings={"objective": "m2"}).fit(X, y)
    rows = torch.from_numpy((X - X.mean(0)) / X.std(0))
    with torch.no_grad():
        q = model._inference_model().classifier
        assert q is not None
        expected = q(rows).softmax(-1).numpy()
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "labels", "complaint"),
    [
        ({}, ["a"] * 20, "expected at least two classes, got one class"),
        ({"unlabelled": -1}, [-1] * 20, "expected some rows with a label, got none"),
        ({"unlabelled": -1}, [0] * 19, "inconsistent numbers of samples"),
        ({"predict_with": "classifier"}, [0, 1] * 10, "expected rows without a label"),
        ({"predict_with": "vote"}, [0, 1] * 10, "expected auto, bayes or classifier, got 'vote'"),
        ({"priors": [1]}, [0, 1] * 10, "prior: expected 2 positive numbers"),
        ({"prior": "vampprior"}, [0, 1] * 10, "prior: vampprior is made of q"),
        ({}, [0.5, 1.5] * 10, "Unknown label type"),
        ({"unlabelled": float("nan")}, [0.0, np.inf] * 10, "infinity"),
    ],
)
def test_bad_input_is_one_line(options, labels, complaint):
    X = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(ValueError, match=complaint):
        FlowVAEClassifier(**{**SMALL, "epochs": 1}, **options).fit(X, labels)


def test_going_on_keeps_to_the_classes_and_to_the_kind_of_labels():
    X, y = two_kinds(60)
    model = FlowVAEClassifier(**{**SMALL, "epochs": 1})
    model.partial_fit(X[:30], y[:30], classes=["cat", "dog"]).partial_fit(X[30:], y[30:])
    assert model.class_count_.tolist() == [(y == name).sum() for name in ("cat", "dog")]
    with pytest.raises(ValueError, match="expected one of the classes cat, dog, got .*emu"):
        model.partial_fit(X[:2], ["cat", "emu"])
    with pytest.raises(ValueError, match="expected a label for every row, as the first time"):
        model.partial_fit(X[:2], ["cat", None])
    with pytest.raises(ValueError, match="expected one of the classes cat, dog, got"):
        model.score_samples(X[:1], ["emu"])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.transform(X[:3], ["cat"])
    warm = FlowVAEClassifier(**{**SMALL, "epochs": 2}, warm_start=True).fit(X, y)
    assert len(warm.fit(X, y).elbo_) == 4


def test_nothing_but_plain_labels_is_read(fitted):
    from flowvae.labels import labels_from_json

    for bad in ({"dtype": "V8", "values": []}, {"dtype": "<i8", "values": [[1]]}):
        with pytest.raises(ValueError, match="expected"):
            labels_from_json(json.loads(json.dumps(bad)))

"""Data meets the support of a likelihood."""

from __future__ import annotations

import numpy as np
import pytest

import flowvae
from flowvae import UserError
from flowvae.data import Dataset, load_dataset
from flowvae.registry import LIKELIHOODS
from tests.helpers.likelihoods import GREY

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


PAIRS = [(name, kind) for name in LIKELIHOODS for kind in DATA]


@pytest.mark.parametrize(("name", "kind"), [(name, k) for name, k in PAIRS if name in FIT[k]])
def test_data_in_the_support_is_trained_on(name, kind, tmp_path):
    data = Dataset.from_arrays(DATA[kind][:8], DATA[kind][8:])
    run = flowvae.train(
        likelihood=name, dataset=data, out=tmp_path / "run", epochs=1, hidden_dims=(4,),
        batch_size=4, evaluation_samples=2, finish=False, progress=False,
    )  # fmt: skip
    assert np.isfinite(run.metrics[0]["test_elbo"])


@pytest.mark.parametrize(("name", "kind"), [(name, k) for name, k in PAIRS if name not in FIT[k]])
def test_data_outside_the_support_is_refused(name, kind, tmp_path):
    data = Dataset.from_arrays(DATA[kind][:8], DATA[kind][8:])
    with pytest.raises(flowvae.UserError, match=f"likelihood: {name} expects .*what fits: ") as e:
        flowvae.train(likelihood=name, dataset=data, out=tmp_path / "run", progress=False)
    assert set(str(e.value).split("what fits: ")[1].split(", ")) == FIT[kind]
    assert not (tmp_path / "run").exists()


def test_data_outside_the_support_is_refused_before_anything_is_written(tmp_path):
    np.save(tmp_path / "x.npy", np.full((9, 4), 7.0))
    with pytest.raises(
        UserError, match=r"likelihood: bernoulli expects numbers in \[0, 1\].* 7 to 7"
    ):
        flowvae.train("original", data=str(tmp_path / "x.npy"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"binarization: static expects pixels in \[0, 1\]"):
        load_dataset(str(tmp_path / "x.npy"), "static")

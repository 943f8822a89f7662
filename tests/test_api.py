"""Everything the commands do, as calls."""

from __future__ import annotations

import numpy as np
import pytest

import flowvae
from flowvae import UserError
from flowvae.data import Dataset

SMALL = {"hidden_dims": (16,), "batch_size": 32, "evaluation_samples": 4, "progress": False}


def test_bad_input_writes_nothing(small_data, tmp_path):
    for change in ({"device": "cuda:77"}, {"data": "absent"}, {"epochs": 0}, {"nonsense": 1}):
        with pytest.raises(UserError):
            flowvae.train("original", out=tmp_path / "run", **{**SMALL, **change})
    assert not list(tmp_path.iterdir())


def test_every_call_takes_a_run_or_its_folder(run, tmp_path):
    opened = flowvae.open_run(run.path, device="cpu")
    assert opened.config == run.config
    for each in (run, opened, str(run.path)):
        assert flowvae.sample(each, 3, seed=1).shape == (3, 6, 5)
        x, again = flowvae.reconstruct(each, 4)
        assert x.shape == again.shape == (4, 6, 5)
        assert flowvae.encode(each)["z"].shape == (60, 2)
    evaluated = flowvae.evaluate(run, 3, progress=False)
    assert flowvae.open_run(run.path).evaluation == evaluated
    assert "±" in str(evaluated["elbo"])


def test_the_refined_posterior_in_every_call(run):
    plain = flowvae.evaluate(run, 50, progress=False)
    found = flowvae.evaluate(run, 50, refine=6, progress=False)
    assert found.terms == plain.terms
    assert plain.refined is None
    assert found.refined is not None
    assert found.refine == 6
    assert found.refined["elbo"].mean > plain["elbo"].mean - 0.02
    assert found.refined["iw_bound"].mean >= found.refined["elbo"].mean
    assert flowvae.open_run(run.path).evaluation == found
    far, near = (flowvae.encode(run, refine=steps)["z"] for steps in (0, 6))
    assert far.shape == near.shape
    assert not np.array_equal(far, near)
    x, again = flowvae.reconstruct(run, 4, refine=6)
    assert x.shape == again.shape
    for call in (flowvae.evaluate, flowvae.encode, flowvae.reconstruct):
        with pytest.raises(UserError, match="refine: expected at least 0, got -1"):
            call(run, refine=-1)


def test_labels_are_optional(tmp_path):
    x = np.random.default_rng(0).random((40, 12))
    data = Dataset.from_arrays(x[:30], x[30:])
    run = flowvae.train("original", dataset=data, out=tmp_path / "run", epochs=1, **SMALL)
    assert set(flowvae.encode(run)) == {"z", "log_q"}
    names = {path.name for path in run.figures.iterdir()}
    assert names == {"learning_curves.png", "latent_space.png", "posterior.png"}

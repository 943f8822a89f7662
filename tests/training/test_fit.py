"""The loop over epochs: learning, early stopping, divergence."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import flowvae
from flowvae import TrainingError, UserError
from flowvae.config import resolve_config
from flowvae.data import Dataset
from flowvae.evaluation import evaluate_model
from flowvae.training import Trainer
from tests.helpers.making import trainer_of


def test_early_stopping_keeps_the_best_model(tmp_path):
    """Twenty data, a large model: the validation ELBO soon falls."""
    rng = np.random.default_rng(0)
    x = rng.random((30, 6, 5)) > 0.5
    data = Dataset.from_arrays(x[:20], x[20:25], validation=x[25:])
    run = flowvae.train(
        "original",
        dataset=data,
        out=tmp_path / "run",
        epochs=400,
        patience=15,
        learning_rate=0.02,
        hidden_dims=(64,),
        batch_size=20,
        evaluation_samples=2,
        finish=False,
        progress=False,
    )
    elbos = [row["validation_elbo"] for row in run.metrics]
    best = int(np.argmax(elbos))
    assert len(elbos) == best + 1 + 15 < 400
    again = flowvae.evaluation.evaluate_model(run.model, data.validation, 1, seed=0).terms["elbo"]
    assert again.mean == pytest.approx(elbos[best], abs=1e-4)
    kept = flowvae.load(tmp_path / "run")
    assert all(map(torch.equal, kept.state_dict().values(), run.model.state_dict().values()))


def test_patience_needs_validation_data(small_data, tmp_path):
    with pytest.raises(UserError, match="patience: expected validation data"):
        flowvae.train("original", dataset=small_data, out=tmp_path / "run", patience=3)
    assert not (tmp_path / "run").exists()


SMALL = {"hidden_dims": (16,), "batch_size": 32, "evaluation_samples": 4, "progress": False}


def test_training_learns(small_data, tmp_path):
    run = flowvae.train("planar", dataset=small_data, out=tmp_path / "run", epochs=30, **SMALL)
    first, last = run.metrics[0], run.metrics[-1]
    assert last["test_elbo"] > first["test_elbo"] + 0.5
    assert last["train_elbo"] > first["train_elbo"] + 0.5
    assert run.evaluation is not None
    assert run.evaluation["elbo"].mean == pytest.approx(last["test_elbo"], abs=0.5)


@pytest.mark.parametrize("policy", ["none", "dynamic", "static", "threshold"])
def test_same_seed_same_bits(small_data, tmp_path, policy):
    """And other randomness in the process does not matter."""
    weights = []
    for name, noise in (("a", 1), ("b", 2)):
        torch.manual_seed(noise)
        run = flowvae.train(
            "original", dataset=small_data, out=tmp_path / name, binarization=policy, epochs=2,
            finish=False, **SMALL,
        )  # fmt: skip
        weights.append(run.model.state_dict())
        assert run.dataset.binarization == policy
        assert run.dataset.pseudo_likelihood == (policy == "none")
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_seeds_differ_and_global_state_is_left_alone(small_data):
    before = torch.get_rng_state()
    ends = []
    for seed in (0, 1):
        config = resolve_config(seed=seed, hidden_dims=(8,))
        trainer = trainer_of(config, small_data)
        ends.append([terms.log_weight.mean().item() for terms in trainer.steps()])
    assert ends[0] != ends[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_divergence_stops_with_a_message_and_keeps_the_last_model(
    small_data, tmp_path, monkeypatch
):
    steps = Trainer.steps

    def diverge(self):
        if getattr(self, "epochs_done", 0) == 2:
            with torch.no_grad():
                next(self.model.parameters()).fill_(math.nan)
        self.epochs_done = getattr(self, "epochs_done", 0) + 1
        yield from steps(self)

    monkeypatch.setattr(Trainer, "steps", diverge)
    with pytest.raises(TrainingError, match=r"of epoch 3: .*keeps the epoch before"):
        flowvae.train("original", dataset=small_data, out=tmp_path / "run", epochs=9, **SMALL)
    kept = flowvae.load(tmp_path / "run")
    assert all(value.isfinite().all() for value in kept.parameters())
    assert len(flowvae.open_run(tmp_path / "run").metrics) == 2
    about = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert about["status"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["original", "planar"])
def test_one_epoch_of_mnist(preset, tmp_path):
    """The real thing: after one epoch the trial runs stood near -168."""
    run = flowvae.train(preset, out=tmp_path / "run", epochs=1, finish=False, progress=False)
    assert run.metrics[0]["test_elbo"] > -172.0
    assert run.dataset.pseudo_likelihood


def test_what_is_saved_and_reported_is_the_average(small_data, tmp_path):
    run = flowvae.train(dataset=small_data, out=tmp_path / "run", epochs=3, averaging=0.95, **SMALL)
    raw = flowvae.train(dataset=small_data, out=tmp_path / "raw", epochs=3, **SMALL)
    saved, kept = flowvae.load(run.path).state_dict(), run.model.state_dict()
    assert all(torch.equal(saved[name], kept[name]) for name in kept)
    other = raw.model.state_dict()
    assert not all(torch.equal(kept[name], other[name]) for name in kept)
    assert run.metrics[-1]["test_elbo"] != raw.metrics[-1]["test_elbo"]
    assert run.metrics[-1]["train_elbo"] == raw.metrics[-1]["train_elbo"]  # of the raw weights
    found = evaluate_model(run.model, small_data.test, 1, seed=run.config.seed)
    assert found["elbo"].mean == pytest.approx(run.metrics[-1]["test_elbo"], abs=1e-4)

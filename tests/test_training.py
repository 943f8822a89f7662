"""Training: it learns, it is repeatable, it keeps its hands off what is not its own."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from making import trainer_of

import flowvae
from flowvae import TrainingError, UserError
from flowvae.config import resolve_config
from flowvae.data import Dataset, Split, binarize, load_dataset
from flowvae.evaluation import Estimate, evaluate_model, per_datum
from flowvae.training import RunningMeans, Trainer

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


def test_gradients_are_clipped_to_the_norm(small_data):
    config = resolve_config(hidden_dims=(8,), max_grad_norm=0.01)
    trainer = trainer_of(config, small_data)
    for _ in trainer.steps():
        norms = [p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]
        assert torch.stack(norms).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_running_means_weigh_every_datum_alike(small_data):
    config = resolve_config(hidden_dims=(8,), batch_size=64)  # the last batch has 8 of 200
    trainer = trainer_of(config, small_data)
    means, values = RunningMeans(), []
    for terms in trainer.steps():
        means.add(terms)
        values.append(terms.log_weight[0])
    assert means.read()["elbo"] == pytest.approx(torch.cat(values).mean().item(), rel=1e-5)


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
    with pytest.raises(TrainingError, match=r"in epoch 3\..*keeps the epoch before"):
        flowvae.train("original", dataset=small_data, out=tmp_path / "run", epochs=9, **SMALL)
    kept = flowvae.load(tmp_path / "run")
    assert all(value.isfinite().all() for value in kept.parameters())
    assert len(flowvae.open_run(tmp_path / "run").metrics) == 2
    about = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert about["status"] == "failed"


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


def test_load_gives_the_same_model(run):
    model = flowvae.load(run.path)
    assert isinstance(model, flowvae.VAE)
    assert not model.training
    x = run.dataset.test.values()
    for given, kept in zip(model.posterior(x).base.loc, run.model.posterior(x).base.loc):  # noqa: B905
        assert torch.equal(given, kept)
    alone = flowvae.load(run.path / "model.safetensors", device="cpu")
    assert torch.equal(alone.sample(2, _seeded()), model.sample(2, _seeded()))


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_standard_errors_cover_the_truth():
    """Over 2,000 simulated data sets the mean lies within 1.96 errors about 95% of the time."""
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(2000):
        found = Estimate.of(3 + 2 * torch.randn(100, generator=generator))
        hits += abs(found.mean - 3) < 1.96 * (found.standard_error or math.inf)
    assert 0.93 < hits / 2000 < 0.965
    assert Estimate.of(torch.ones(1)).standard_error is None


def test_evaluation_agrees_with_the_model(run):
    """Batches, chunks and float64 sums do not change what is estimated."""
    split = run.dataset.test
    values = per_datum(run.model, split, 50, _seeded(), batch_size=7)
    with torch.no_grad():
        elbo = run.model.elbo(split.values(), 4000, _seeded()).double()
        bound = run.model.iw_bound(split.values(), 4000, _seeded()).double()
    assert (values["elbo"] - elbo).mean().abs() < 0.05
    assert values["iw_bound"].mean() == pytest.approx(bound.mean().item(), abs=0.05)
    assert (values["iw_bound"] >= values["elbo"] - 1e-5).all()
    once = evaluate_model(run.model, split, 5, seed=1)
    assert once == evaluate_model(run.model, split, 5, seed=1)
    assert once != evaluate_model(run.model, split, 5, seed=2)


def test_test_metrics_use_sampled_z(small_data):
    """With z = μ the terms would not depend on the seed, and would be no bound."""
    model = flowvae.build_vae(resolve_config(hidden_dims=(8,)), (6, 5))
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    values = [per_datum(model, small_data.test, 1, generator) for generator in generators]
    assert (values[0]["log_prior"] != values[1]["log_prior"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["original", "planar"])
def test_one_epoch_of_mnist(preset, tmp_path):
    """The real thing: after one epoch the trial runs stood near -168."""
    run = flowvae.train(preset, out=tmp_path / "run", epochs=1, finish=False, progress=False)
    assert run.metrics[0]["test_elbo"] > -172.0
    assert run.dataset.pseudo_likelihood


def test_dynamic_binarization_of_mnist_is_scored_on_a_fixed_draw():
    mnist = load_dataset("mnist", "dynamic")
    part = Dataset("part", Split(mnist.train.data[:500]), mnist.test, (28, 28), "dynamic")
    config = resolve_config(binarization="dynamic", hidden_dims=(8,))
    trainer = trainer_of(config, part)
    for _ in trainer.steps():
        pass
    scored = evaluate_model(trainer.model, part.test, 2, binarization="dynamic")
    assert not scored.pseudo_likelihood
    again = binarize(load_dataset("mnist"), "dynamic").test
    assert evaluate_model(trainer.model, again, 2, binarization="dynamic") == scored


def test_labels_are_optional(tmp_path):
    x = np.random.default_rng(0).random((40, 12))
    data = Dataset.from_arrays(x[:30], x[30:])
    run = flowvae.train("original", dataset=data, out=tmp_path / "run", epochs=1, **SMALL)
    assert set(flowvae.encode(run)) == {"z", "log_q"}
    names = {path.name for path in run.figures.iterdir()}
    assert names == {"learning_curves.png", "latent_space.png", "posterior.png"}

"""Functions called after each epoch."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flowvae
from flowvae import UserError
from flowvae.callbacks import in_turn, mlflow_callback, wandb_callback
from flowvae.evaluation import evaluate_model

SMALL: dict[str, Any] = {"hidden_dims": (16,), "batch_size": 30, "averaging": 0.9, "epochs": 6}
QUIET: dict[str, Any] = {"progress": False, "finish": False}


def test_it_is_given_what_was_evaluated_and_may_stop(small_data, tmp_path):
    seen: list[dict[str, float]] = []

    def callback(run: Any, row: dict[str, float], model: Any) -> bool:
        found = evaluate_model(model, small_data.test, 1, seed=run.config.seed)
        assert found["elbo"].mean == pytest.approx(row["test_elbo"], abs=1e-5)
        seen.append(dict(row))
        row.clear()  # it is the callback's own
        return len(seen) == 3

    options = {**SMALL, "dataset": small_data, **QUIET}
    run = flowvae.train(out=tmp_path / "run", on_epoch=callback, **options)
    assert [row["epoch"] for row in run.metrics] == [1, 2, 3]
    assert seen[1]["test_elbo"] == pytest.approx(run.metrics[1]["test_elbo"])
    status = json.loads((run.path / "environment.json").read_text())["status"]
    assert status == "finished"
    # Looking on changes nothing, and what was stopped can go on.
    resumed = flowvae.resume(run.path, dataset=small_data, on_epoch=lambda *_: None, **QUIET)
    whole = flowvae.train(out=tmp_path / "whole", **options)
    elbos = [[row["test_elbo"] for row in each.metrics] for each in (resumed, whole)]
    assert elbos[0] == elbos[1]


def test_its_error_ends_the_run(small_data, tmp_path):
    def callback(*_: object) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        flowvae.train(out=tmp_path / "run", dataset=small_data, on_epoch=callback, **SMALL, **QUIET)
    status = json.loads((tmp_path / "run" / "environment.json").read_text())["status"]
    assert status == "failed"


def test_weights_and_biases_by_a_stand_in(small_data, tmp_path, monkeypatch):
    begun, logged = [], []

    def init(**given: Any) -> Any:
        begun.append(given)
        return SimpleNamespace(log=lambda row, step: logged.append((step, row["test_elbo"])))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    run = flowvae.train(
        out=tmp_path / "run",
        dataset=small_data,
        on_epoch=in_turn(wandb_callback(project="p"), lambda run, row, model: row["epoch"] == 2),
        **SMALL,
        **QUIET,
    )
    (given,) = begun
    assert given["project"] == "p"
    assert given["config"]["training.averaging"] == 0.9
    expected = [(1, run.metrics[0]["test_elbo"]), (2, run.metrics[1]["test_elbo"])]
    assert [step for step, _ in logged] == [1, 2]
    assert [elbo for _, elbo in logged] == pytest.approx([elbo for _, elbo in expected])


def test_mlflow_by_a_stand_in(small_data, tmp_path, monkeypatch):
    begun, parameters, logged = [], [], []

    @contextmanager
    def start_run(**given: Any):
        begun.append(given)
        yield SimpleNamespace(info=SimpleNamespace(run_id="7"))

    stand_in = SimpleNamespace(
        start_run=start_run,
        log_params=parameters.append,
        log_metrics=lambda row, step, run_id: logged.append((step, run_id, row["train_elbo"])),
    )
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    options = {**SMALL, "epochs": 2, "dataset": small_data, **QUIET}
    run = flowvae.train(out=tmp_path / "run", on_epoch=mlflow_callback(run_name="n"), **options)
    assert begun == [{"run_name": "n"}]
    assert parameters[0]["model.network.hidden_dims"] == [16]
    assert [entry[:2] for entry in logged] == [(1, "7"), (2, "7")]
    assert logged[1][2] == pytest.approx(run.metrics[1]["train_elbo"])


@pytest.mark.parametrize(("name", "make"), [("wandb", wandb_callback), ("mlflow", mlflow_callback)])
def test_a_package_that_is_missing_is_named(name, make, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf'{name}: .* pip install "flowvae\[{name}\]"'):
        make()


def test_the_search_of_the_examples(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    from examples.optuna_search import search

    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).random((120, 8)))
    study = search(3, data="x.npy", likelihood="gaussian", hidden_dims=(8,), epochs=2)
    assert len(study.trials) == 3
    metrics = flowvae.open_run(tmp_path / "runs" / "search" / "0").metrics
    assert study.trials[0].value == pytest.approx(metrics[-1]["validation_elbo"])

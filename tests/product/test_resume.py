"""Runs that are stopped or killed go on as if nothing had happened."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flowvae
from flowvae import UserError
from flowvae.data import Dataset
from flowvae.errors import Terminated
from flowvae.files import remove_leftovers, write_bytes
from flowvae.run_folders import only_writer
from flowvae.training import Trainer
from flowvae.training.checkpoint import read_checkpoint, write_checkpoint
from flowvae.training.fit import Book

SMALL: dict[str, Any] = {
    "hidden_dims": (16,),
    "batch_size": 30,
    "evaluation_samples": 4,
    "epochs": 4,
    "num_flows": 3,
    "constraint": "centred",
}
EVERYTHING = {
    **SMALL,
    "binarization": "dynamic",
    "warmup": "kl",
    "warmup_epochs": 3,
    "schedule": "cosine",
    "averaging": 0.9,
    "max_grad_ratio": 1.5,
    "encoder_dropout": 0.1,
    "encoder_steps": 2,
    "checkpoint_minutes": 1e-9,  # after each update
}
TIMES = {"seconds", "steps_per_second"}


QUIET: dict[str, Any] = {"progress": False, "finish": False}


class Killed(BaseException):
    """Like a kill: nothing is saved after it."""


def outcome(folder: Path) -> dict[str, Any]:
    """All that must be the same, but for what tells the time."""
    run = flowvae.open_run(folder)
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in run.metrics]
    state, _ = read_checkpoint(folder / "checkpoint.safetensors")
    found: dict[str, Any] = {"rows": rows, "evaluation": run.evaluation}
    for name, value in {**run.model.state_dict(), **state}.items():
        found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


@contextmanager
def killed_after(updates: int) -> Iterator[None]:
    """After so many updates the process is gone."""
    update, calls = Trainer._update, itertools.count()

    def killed(self: Trainer, xs: Any) -> Any:
        if next(calls) == updates:
            raise Killed
        return update(self, xs)

    with pytest.raises(Killed), patch.object(Trainer, "_update", killed):
        yield


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_killed_at_any_update_it_goes_on_to_the_same_bits(small_data, tmp_path, precision):
    options = {**EVERYTHING, "precision": precision, "dataset": small_data, **QUIET}
    flowvae.train(out=tmp_path / "whole", **options)
    with killed_after(3):
        flowvae.train(out=tmp_path / "killed", **options)
    for after in (0, 1, 5, 7):  # before the first further update, within an epoch, past its end
        with killed_after(after):
            flowvae.resume(tmp_path / "killed", dataset=small_data, **QUIET)
    flowvae.resume(tmp_path / "killed", dataset=small_data, **QUIET)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("minutes", [1e-9, 1000.0])
def test_a_finished_run_is_trained_longer(small_data, tmp_path, minutes):
    options = {**SMALL, "checkpoint_minutes": minutes, "dataset": small_data, **QUIET}
    flowvae.train(out=tmp_path / "whole", **{**options, "epochs": 5, "finish": True})
    run = flowvae.train(out=tmp_path / "short", **{**options, "epochs": 2})
    again = flowvae.resume(run.path, dataset=small_data, **QUIET)  # nothing is left to do
    assert len(again.metrics) == 2
    flowvae.resume(run.path, epochs=5, dataset=small_data, progress=False)
    assert outcome(tmp_path / "short") == outcome(tmp_path / "whole")
    with pytest.raises(UserError, match="epochs: expected at least the 5 that are done, got 4"):
        flowvae.resume(run.path, epochs=4, dataset=small_data)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "step"])
def test_more_epochs_go_on_at_the_rate_of_the_longer_plan(small_data, tmp_path, schedule):
    more = {"schedule": schedule, "schedule_epochs": 1, "learning_rate": 0.01}
    options = {**SMALL, **more, "dataset": small_data, **QUIET}
    run = flowvae.train(out=tmp_path / "run", **{**options, "epochs": 2})
    config = run.config.replace(epochs=6)
    model = flowvae.build_vae(config, small_data.data_shape)
    longer = Trainer(model, small_data, config.training, config.objective)
    plan = [rate for _ in range(6) for rate in [_rate(longer)] if list(longer.steps())]
    flowvae.resume(run.path, epochs=4, dataset=small_data, **QUIET)
    trainer = Trainer(model, small_data, config.training, config.objective)
    state, _ = read_checkpoint(run.path / "checkpoint.safetensors")
    trainer.load_state_dict(state)  # four epochs of four, in a plan of six
    assert _rate(trainer) == pytest.approx(plan[4], rel=1e-6)
    list(trainer.steps())
    assert _rate(trainer) == pytest.approx(plan[5], rel=1e-6)


def _rate(trainer: Trainer) -> float:
    return float(trainer.optimizer.param_groups[0]["lr"])


def test_early_stopping_goes_on_too(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.random((30, 6, 5)) > 0.5
    data = Dataset.from_arrays(x[:20], x[20:25], validation=x[25:])
    options = {"patience": 8, "learning_rate": 0.02, "hidden_dims": (64,), "batch_size": 10}
    options |= {"evaluation_samples": 2, "epochs": 300, "checkpoint_minutes": 1e-9}
    flowvae.train(out=tmp_path / "whole", dataset=data, **QUIET, **options)
    with killed_after(9):
        flowvae.train(out=tmp_path / "killed", dataset=data, **QUIET, **options)
    flowvae.resume(tmp_path / "killed", dataset=data, **QUIET)
    whole = outcome(tmp_path / "whole")
    assert outcome(tmp_path / "killed") == whole
    assert 8 < len(whole["rows"]) < 300
    # A run that has waited long enough does not train further.
    again = flowvae.resume(tmp_path / "killed", dataset=data, **QUIET)
    assert len(again.metrics) == len(whole["rows"])


def test_what_does_not_fit_is_one_line(small_data, tmp_path):
    options = {**SMALL, "epochs": 1, "dataset": small_data, **QUIET}
    run = flowvae.train(out=tmp_path / "run", **options)
    file = run.path / "checkpoint.safetensors"
    with pytest.raises(UserError, match="run: expected a run folder with config.yaml, got"):
        flowvae.resume(tmp_path / "nothing")
    other = Dataset.from_arrays(np.ones((200, 6, 5)), np.ones((9, 6, 5)))
    with pytest.raises(UserError, match="fit the run: the training data are not those"):
        flowvae.resume(run.path, dataset=other, epochs=2, **QUIET)
    state, more = read_checkpoint(file)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"optimizer.0.exp_avg": torch.zeros(3)}, r"'optimizer.0.exp_avg': expected float32 \(16"),
        ({"model.x": torch.zeros(3)}, "'model.x': expected nothing, got float32"),
        ({"position": 10**6}, "position: expected one of the epoch's, got 1000000"),
        ({"epoch": -1}, "epoch: expected at least 0, got -1"),
        ({"generator": torch.zeros(5, dtype=torch.uint8)}, "'generator': expected uint8"),
        ({"step": 0.5}, "'step': expected int, got float"),
        ({"best.x": torch.zeros(2)}, "its best weights are not those of the model"),
    ]
    for change, message in wrong:
        write_checkpoint(file, {**state, **change}, **more)
        with pytest.raises(UserError, match=message):
            flowvae.resume(run.path, dataset=small_data, epochs=2, **QUIET)
    write_checkpoint(file, state, **{**more, "rows": [{"epoch": "x"}]})
    with pytest.raises(UserError, match="checkpoint: .* is corrupt: rows"):
        flowvae.resume(run.path, dataset=small_data, epochs=2, **QUIET)
    write_checkpoint(file, state, **{**more, "rows": []})
    with pytest.raises(UserError, match="rows: expected 1, got 0"):
        flowvae.resume(run.path, dataset=small_data, epochs=2, **QUIET)
    file.unlink()  # it was killed before its first checkpoint
    assert len(flowvae.resume(run.path, dataset=small_data, **QUIET).metrics) == 1
    anew, _ = read_checkpoint(file)
    assert {name: _plain(value) for name, value in anew.items()} == {
        name: _plain(value) for name, value in state.items()
    }


def test_a_number_that_is_not_finite_comes_back(tmp_path):
    file = tmp_path / "c.safetensors"
    write_checkpoint(file, {"a": torch.ones(2), "b": float("nan"), "c": 3}, rows=[float("inf")])
    state, more = read_checkpoint(file)
    assert state["b"] != state["b"]
    assert state["c"] == 3
    assert more["rows"] == [float("inf")]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.binary(max_size=20), st.booleans())
def test_a_damaged_checkpoint_is_refused_or_read(tmp_path, place, junk, cut):
    file = tmp_path / "c.safetensors"
    if not (tmp_path / "whole").exists():
        write_checkpoint(tmp_path / "whole", {"a": torch.ones(20), "b": 2}, rows=[{"x": 1.0}])
    content = (tmp_path / "whole").read_bytes()
    place %= len(content)
    file.write_bytes(content[:place] + junk + (b"" if cut else content[place + len(junk) :]))
    state: dict[str, Any] = {}
    message = "is none of flowvae's, or corrupt"
    try:
        state, _ = read_checkpoint(file)
    except UserError as error:
        message = str(error)
    assert "is none of flowvae's, or corrupt" in message
    assert all(isinstance(value, (torch.Tensor, int, float)) for value in state.values())


def test_one_process_writes_to_a_run(small_data, tmp_path):
    options = {**SMALL, "epochs": 1, "dataset": small_data, **QUIET}
    with only_writer(tmp_path / "run"):
        with pytest.raises(UserError, match=r"run is being written to by another process"):
            flowvae.train(out=tmp_path / "run", **options)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    run = flowvae.train(out=tmp_path / "run", **options)
    assert not (run.path / ".lock").exists()


def test_a_run_that_was_killed_at_once_can_be_started_again(small_data, tmp_path):
    (tmp_path / "run").mkdir()
    for name in (".lock", ".new-config-abc.yaml"):
        (tmp_path / "run" / name).write_text("half")
    run = flowvae.train(out=tmp_path / "run", dataset=small_data, **{**SMALL, "epochs": 1}, **QUIET)
    assert not [path for path in run.path.rglob("*") if path.name.startswith(".")]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / ".new-posterior-abc.png").write_bytes(b"half")
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
    remove_leftovers(tmp_path)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine.png"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.bin").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_bytes(tmp_path / "a.bin", b"new", durable=True)
    assert caught.value.filename == str(tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def start(tmp_path: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flowvae", "train", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )


def flags(tmp_path: Path, out: str, epochs: int, **more: object) -> list[object]:
    file = tmp_path / "x.npz"
    if not file.exists():
        rng = np.random.default_rng(0)
        np.savez(file, x_train=rng.random((2000, 6, 5)), x_test=rng.random((50, 6, 5)))
    found: list[object] = ["--data", file, "--out", out, "--epochs", epochs]
    chosen = {**EVERYTHING, "hidden_dims": 16, "evaluation_samples": 4, **more}
    for name, value in chosen.items():
        if name != "epochs":
            found += [f"--{name.replace('_', '-')}", value]
    return found


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path, number, code):
    more = {"checkpoint_minutes": 1000}
    process = start(tmp_path, *flags(tmp_path, "run", 10_000, **more))
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    assert errors.strip().splitlines()[-1] == "Interrupted. Go on with: flowvae train --resume run"
    state, _ = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    done = int(state["epoch"])
    assert done >= 1
    flowvae.load(tmp_path / "run")
    process = start(tmp_path, "--resume", "run", "--epochs", done + 1, "--quiet")
    assert process.communicate(timeout=120)[1] == ""
    assert process.returncode == 0
    assert len(flowvae.open_run(tmp_path / "run").metrics) == done + 1
    for wrong, message in (
        (["--resume", "run", "--num-flows", 4], "num_flows: would make another run of run"),
        (["--resume", "run", "--preset", "planar"], "preset: would make another run of run"),
        (["--resume", "none"], "run: expected a run folder with config.yaml, got none"),
    ):
        process = start(tmp_path, *wrong)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        assert message in errors
        assert len(errors.splitlines()) == 1


def test_a_signal_after_the_last_epoch_is_not_lost(small_data, tmp_path, monkeypatch):
    write = Book.write

    def asked(self: Book) -> None:
        write(self)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Book, "write", asked)
    options = {**SMALL, "epochs": 1, "dataset": small_data, "progress": False}
    with pytest.raises(Terminated):
        flowvae.train(out=tmp_path / "run", **options)
    assert not (tmp_path / "run" / "evaluation.json").exists()


def test_in_python_a_signal_stops_between_two_updates(small_data, tmp_path, monkeypatch):
    steps = Trainer.steps

    def asked(self: Trainer) -> Any:
        for count, terms in enumerate(steps(self)):
            if count == 2:
                signal.raise_signal(signal.SIGTERM)
            yield terms

    monkeypatch.setattr(Trainer, "steps", asked)
    options = {**SMALL, "dataset": small_data, **QUIET}
    with pytest.raises(Terminated):
        flowvae.train(out=tmp_path / "run", **options)
    state, _ = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert state["position"] == 3
    monkeypatch.undo()
    flowvae.train(out=tmp_path / "whole", **options)
    flowvae.resume(tmp_path / "run", dataset=small_data, **QUIET)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_killed_at_random_moments(tmp_path, precision):
    """From outside, at any moment: importing, training, writing, evaluating, drawing."""
    moments = np.random.default_rng(0)
    more = {"precision": precision, "checkpoint_minutes": 0.002}
    whole = start(tmp_path, *flags(tmp_path, "whole", 6, **more), "--quiet")
    began = time.monotonic()
    assert whole.communicate(timeout=300)[1] == ""
    took = time.monotonic() - began
    kills = runs = 0
    while kills < 20:
        runs += 1
        name = f"killed{runs}"
        at = lambda: moments.uniform(0.3, 1.1) * took  # noqa: E731
        kills += _killed_until_it_is_done(tmp_path, name, 6, more, at)
        assert outcome(tmp_path / name) == outcome(tmp_path / "whole")
        pictures = [{p.name for p in (tmp_path / n).rglob("*.png")} for n in (name, "whole")]
        assert pictures[0] == pictures[1]


def _killed_until_it_is_done(
    folder: Path, name: str, epochs: int, more: dict[str, Any], seconds: Callable[[], float]
) -> int:
    """How many kills it survived; ten at most, then it is left in peace."""
    command, kills = flags(folder, name, epochs, **more), 0
    while True:
        process = start(folder, *command, "--quiet")
        try:
            errors = process.communicate(timeout=seconds() if kills < 10 else 300)[1]
            assert (process.returncode, errors) == (0, "")
            return kills
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        if (folder / name / "config.yaml").exists():
            command = ["--resume", name]
        if (folder / name / "model.safetensors").exists():
            flowvae.load(folder / name)

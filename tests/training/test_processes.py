"""Several processes give what one gives, and none is left waiting."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flowvae
from flowvae import UserError, processes
from flowvae.config import resolve_config
from flowvae.data import Dataset, Split, binarize
from flowvae.evaluation import FullSettings, evaluate_model
from flowvae.reproduction.description import QUICK_FULL
from flowvae.training import Trainer
from flowvae.training.checkpoint import State, read_checkpoint
from tests.conftest import blobs
from tests.helpers.making import trainer_of
from tests.helpers.several import ended, run_together, start_together

HERE = "tests.training.test_processes"
UPDATES = {"everything": 200, "convolutions": 3}
# In float64: rounding in float32 grows a millionfold in 200 updates of Adam, whoever rounds.
CONFIGS: dict[str, dict[str, Any]] = {
    "everything": {
        "posterior": "planar",
        "binarization": "dynamic",
        "warmup": "kl",
        "warmup_epochs": 5,
        "schedule": "cosine",
        "epochs": 60,
        "averaging": 0.99,
        "max_grad_ratio": 3.0,
        "encoder_dropout": 0.2,
        "batch_size": 33,
    },
    "free_bits": {"objective.free_bits": 0.3, "posterior": "iaf", "accumulate": 2},
    "dreg": {"objective": "dreg", "objective.samples": 5, "encoder_steps": 2},
    "stl": {"objective": "stl", "posterior": "sylvester_orthogonal", "warmup": "tempering"},
    "convolutions": {"network": "gated_conv", "batch_size": 10, "max_grad_norm": 1.0},
    "few": {"batch_size": 3, "prior": "vampprior"},
}


def make(name: str, updates_file: Path | None = None) -> Trainer:
    images, kinds = blobs(260, (6, 5))
    data = Dataset.from_arrays(images[:200], images[200:], kinds[:200], kinds[200:])
    settings = {"hidden_dims": (16,), "batch_size": 40, **CONFIGS[name]}
    if "network" in settings:
        del settings["hidden_dims"]
    config = resolve_config(**settings)
    data = binarize(data, config.data.binarization)
    data = dataclasses.replace(data, train=Split(data.train.values().double()))
    trainer = trainer_of(config, data, flowvae.build_vae(config, (6, 5)).double())
    if updates_file is not None:
        trainer.load(updates_file)
    return trainer


def go(trainer: Trainer, updates: int) -> None:
    while updates > 0:
        updates -= sum(1 for _ in islice(trainer.steps(), updates))


def train_all(folder: str, count: int) -> None:
    """Every configuration: from the start, and from a state of another number of processes."""
    with processes.joined():
        assert processes.process_count() == count
        for name in CONFIGS:
            trainer = make(name)
            go(trainer, UPDATES.get(name, 30))
            _save(trainer, Path(folder) / f"{name}-{count}.safetensors")
        for file in sorted(Path(folder).glob("*-1.safetensors")):
            trainer = make(file.name.partition("-")[0], file)
            go(trainer, 3)
            _save(trainer, Path(folder) / f"{file.stem}-then-{count}.safetensors")


def _save(trainer: Trainer, file: Path) -> None:
    state = trainer.state_dict()
    if processes.is_first():
        with processes.alone():
            flowvae.training.checkpoint.write_checkpoint(file, state)


def differences(first: State, second: State) -> dict[str, float]:
    """Of each tensor, relative to its norm; what is no number must be the same."""
    assert first.keys() == second.keys()
    found = {}
    for name, a in first.items():
        b = second[name]
        if isinstance(a, torch.Tensor) and a.is_floating_point():
            assert isinstance(b, torch.Tensor)
            found[name] = float((a - b).norm() / a.norm().clamp(min=1e-30))
        elif isinstance(a, torch.Tensor):
            assert isinstance(b, torch.Tensor)
            assert torch.equal(a, b), name
        else:
            assert a == b, name
    return found


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_parameters_and_metrics_are_those_of_one_process(tmp_path, count):
    for name in CONFIGS:
        trainer = make(name)
        go(trainer, UPDATES.get(name, 30))
        trainer.save(tmp_path / f"{name}-1.safetensors")
        go(trainer, 3)
        trainer.save(tmp_path / f"{name}-1-then-1.safetensors")
    run_together(count, f"{HERE}:train_all", str(tmp_path), count)

    def read(stem: str) -> State:
        return read_checkpoint(tmp_path / f"{stem}.safetensors")[0]

    for name in CONFIGS:
        for one, several in (("1", f"{count}"), ("1-then-1", f"1-then-{count}")):
            found = differences(read(f"{name}-{one}"), read(f"{name}-{several}"))
            assert max(found.values()) < 1e-7, (name, several, found)
        # And on from the state of several in one.
        trainer = make(name, tmp_path / f"{name}-{count}.safetensors")
        go(trainer, 3)
        found = differences(read(f"{name}-1-then-1"), trainer.state_dict())
        assert max(found.values()) < 1e-7, (name, found)


def evaluate_all(folder: str) -> None:
    file = Path(folder) / "run"
    shown = {}
    with processes.joined():
        for refine in (0, 2):
            run = flowvae.open_run(file, "cpu")
            found = evaluate_model(run.model, run.dataset.test, samples=7, refine=refine)
            shown[refine] = found
        settings = FullSettings(**FEW)
        full = flowvae.evaluate_full(file, settings, device="cpu", progress=False)
        # Fewer data than processes.
        data = Split(run.dataset.test.values(slice(0, 1)))
        one = evaluate_model(run.model, data, samples=3)
        fitted = estimator(random_state=0)
        estimator(random_state=None)  # all take the first one's seed
        first = processes.is_first()
    if first:
        torch.save((shown, full.per_datum, one, fitted), Path(folder) / "found.pt")


def estimator(random_state: int | None = None) -> np.ndarray:
    X = np.random.default_rng(0).normal(size=(50, 3))
    model = flowvae.FlowVAE(num_flows=2, hidden_dims=(8,), epochs=1, random_state=random_state)
    model.fit(X)
    assert processes.largest([model._seed]) == [model._seed]
    return model.transform(X)


# More blocks than processes, and fewer.
FEW = {**QUICK_FULL, "count": 60, "ais_count": 15}


def test_evaluations_are_those_of_one_process(tmp_path, data_file):
    run = flowvae.train(
        data=str(data_file), out=tmp_path / "run", epochs=1, hidden_dims=(16,), progress=False
    )
    run_together(2, f"{HERE}:evaluate_all", str(tmp_path))
    shown, per_datum, one, fitted = torch.load(tmp_path / "found.pt", weights_only=False)
    for refine, found in shown.items():
        expected = evaluate_model(run.model, run.dataset.test, samples=7, refine=refine)
        for terms, wanted in ((found.terms, expected.terms), (found.refined, expected.refined)):
            assert (terms is None) == (wanted is None)
            for name, value in (wanted or {}).items():
                assert terms[name].mean == pytest.approx(value.mean, rel=1e-6, abs=1e-6), name
    whole = flowvae.evaluate_full(
        _copy(run, tmp_path / "again"), FullSettings(**FEW), progress=False
    )
    for part, arrays in whole.per_datum.items():
        for name, values in arrays.items():
            assert np.array_equal(values, per_datum[part][name], equal_nan=True), (part, name)
    data = Split(run.dataset.test.values(slice(0, 1)))
    np.testing.assert_allclose(fitted, estimator(random_state=0), atol=1e-3)
    assert one["elbo"].mean == pytest.approx(evaluate_model(run.model, data, 3)["elbo"].mean)


def _copy(run: flowvae.Run, folder: Path) -> flowvae.Run:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((run.path / "model.safetensors").read_bytes())
    return flowvae.open_run(folder, "cpu")


def decide(folder: str) -> None:
    with processes.joined():
        number = int(os.environ["RANK"])
        assert processes.first_decides(lambda: {"ä": [number]}) == {"ä": [0]}
        assert processes.largest([number, -number, 0.5]) == [2, 0, 0.5]
        done = []
        processes.share_out([10, 20, 30, 40], done.append)
        assert done == [[10, 40], [20], [30]][number]

        def only_the_last() -> None:
            if number == 2:
                raise UserError("disk: full")

        with pytest.raises(UserError, match="process 2: disk: full"):
            processes.together(only_the_last)

        def missing() -> None:
            Path(folder, "nothing").read_text()

        with pytest.raises(UserError, match="nothing: No such file"):
            processes.first_decides(missing)
        with processes.alone():
            assert processes.process_count() == 1
            assert processes.first_decides(lambda: number) == number
    assert processes.process_count() == 1


def test_decisions_and_errors_are_shared(tmp_path):
    run_together(3, f"{HERE}:decide", str(tmp_path))


def test_slices_cover_the_batch_and_noise_is_that_of_the_whole(monkeypatch):
    whole = torch.randn((3, 10, 2), generator=torch.Generator().manual_seed(0))
    parts = []
    monkeypatch.setattr(processes, "process_count", lambda: 4)
    for number in range(4):
        monkeypatch.setattr(processes, "_number", lambda number=number: number)
        generator = torch.Generator().manual_seed(0)
        with processes.part_of_batch(10) as mine:
            parts.append(mine)
            size = mine.stop - mine.start
            noise = processes.noise_of_batch(
                (3, size, 2), 1, lambda s, g=generator: torch.randn(s, generator=g)
            )
            assert torch.equal(noise, whole[:, mine])
            assert processes.whole_batch(size) == 10
            assert float(processes.batch_mean(torch.ones(3, size))) == pytest.approx(size / 10)
    assert [i for part in parts for i in range(10)[part]] == list(range(10))


# As users meet it.


def flags(folder: Path, **more: Any) -> list[Any]:
    file = folder / "small.npz"
    if not file.exists():
        rng = np.random.default_rng(0)
        np.savez(file, x_train=rng.random((2000, 6, 5)), x_test=rng.random((50, 6, 5)))
    chosen = {"data": file, "hidden_dims": 16, "evaluation_samples": 4, "out": "run", **more}
    named = [(f"--{name.replace('_', '-')}", value) for name, value in chosen.items()]
    return ["-m", "flowvae", "train", *(word for pair in named for word in pair)]


def wait_for(file: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < deadline, f"{file} did not appear"
        time.sleep(0.05)


def test_one_process_writes_and_speaks(tmp_path):
    more = {"epochs": 3, "patience": 1, "validation_fraction": 0.2, "checkpoint_minutes": 1e-4}
    started = start_together(2, flags(tmp_path, **more), cwd=tmp_path)
    (first, shown), (second, silent) = ended(started)
    assert (first, second, silent) == (0, 0, "")
    assert "Training original" in shown
    run = flowvae.open_run(tmp_path / "run")
    assert run.evaluation is not None
    assert (run.figures / "samples.png").exists()
    again = ended(start_together(2, flags(tmp_path), cwd=tmp_path))
    assert [code for code, _ in again] == [2, 2]
    assert again[0][1] == "flowvae: out: expected a new or empty folder, got run, which is in use\n"
    assert again[1][1] == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("who", [0, 1])
def test_a_killed_process_ends_the_others_and_one_process_goes_on(tmp_path, who):
    more = {"epochs": 100_000, "checkpoint_minutes": 1e-4}
    started = start_together(2, flags(tmp_path, **more), cwd=tmp_path)
    wait_for(tmp_path / "run" / "checkpoint.safetensors")
    started[who].kill()
    code, errors = ended(started, 60)[1 - who]
    assert code == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith("flowvae: processes: another process has gone")
    assert last.endswith("Go on with: flowvae train --resume run")
    done = int(read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[0]["epoch"])
    run = flowvae.resume(tmp_path / "run", epochs=done + 1, progress=False)
    assert len(run.metrics) == done + 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_signal_to_one_ends_all_with_a_checkpoint(tmp_path):
    more = {"epochs": 100_000, "checkpoint_minutes": 1000}
    started = start_together(2, flags(tmp_path, **more), cwd=tmp_path)
    wait_for(tmp_path / "run" / "metrics.csv")
    started[1].send_signal(signal.SIGTERM)
    (first, shown), (second, silent) = ended(started, 60)
    assert (first, second, silent) == (143, 143, "")
    assert shown.strip().endswith("Interrupted. Go on with: flowvae train --resume run")
    assert int(read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[0]["epoch"]) >= 1

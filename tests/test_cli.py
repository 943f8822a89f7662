"""The commands as a user meets them: what they write, and how they fail."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import flowvae
from tests.helpers.making import call

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


SMALL = ["--hidden-dims", "16", "--batch-size", "32", "--evaluation-samples", "4"]


def start(*arguments: object, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flowvae", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # A suite that runs in the background of a shell ignores SIGINT, and so would its children.
        preexec_fn=None if os.name == "nt" else _heed_interrupts,  # noqa: PLW1509
        **options,
    )


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_train_leaves_a_folder_that_explains_itself(data_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("train", "--data", data_file, "--epochs", 2, "--seed", 3, *SMALL) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("_original_seed3")
    shown = capsys.readouterr()
    assert "pseudo-likelihood" in shown.out
    assert "pseudo-ELBO" in shown.out
    assert "epoch   1/2" in shown.err
    assert "left" in shown.err
    pictures = {path.name for path in (folder / "figures").iterdir()}
    assert pictures == {
        *("learning_curves.png", "latent_space.png", "reconstructions.png"),
        *("samples.png", "latent_grid.png", "posterior.png"),
    }
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["seed"], config["training"]["epochs"]) == (3, 2)
    assert config["model"]["posterior"]["num_flows"] == 3
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["test_elbo"]) < 0
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["pseudo_likelihood"] is True
    assert evaluation["terms"]["elbo"]["standard_error"] > 0
    about = json.loads((folder / "environment.json").read_text())
    assert about["status"] == "finished"
    assert about["versions"]["torch"] == torch.__version__
    assert set(about["durations"]) == {"training", "evaluation", "figures"}
    events = list((folder / "tensorboard").glob("events*"))
    assert bool(events) == (find_spec("tensorboard") is not None)
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_a_runs_config_given_back_is_the_same_run(run, tmp_path):
    """Also: two runs with one seed are bit-identical."""
    out = tmp_path / "again"
    assert call("train", "--config", run.path / "config.yaml", "--out", out, "--quiet") == 0
    again = flowvae.load(out)
    for name, value in flowvae.load(run.path).state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert (out / "config.yaml").read_text() == (run.path / "config.yaml").read_text()
    assert flowvae.open_run(out).evaluation == flowvae.evaluate(run, progress=False)


def test_evaluate(run, capsys):
    assert call("evaluate", run.path, "--samples", 20, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 20
    terms = {name: value["mean"] for name, value in found["terms"].items()}
    assert terms["elbo"] == pytest.approx(terms["log_likelihood"] - terms["kl"], abs=1e-6)
    assert terms["kl"] == pytest.approx(
        terms["log_base"] - terms["ladj"] - terms["log_prior"], abs=1e-6
    )
    assert terms["iw_bound"] > terms["elbo"]
    assert call("evaluate", run.path, "--samples", 20) == 0
    assert f"{terms['elbo']:.3f} ±" in capsys.readouterr().out


def test_sample_and_reconstruct(run, tmp_path, capsys):
    for command, count in (("sample", 9), ("reconstruct", 5)):
        picture, arrays = tmp_path / f"{command}.png", tmp_path / f"{command}.npz"
        assert call(command, run.path, "--num", count, "--out", picture) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert call(command, run.path, "--num", count, "--out", arrays) == 0
        assert np.load(arrays)["x"].shape == (count, 6, 5)
    assert call("sample", run.path) == 0
    assert (run.path / "samples.png").exists()
    assert "samples.png" in capsys.readouterr().out


def test_refined(run, tmp_path, capsys):
    assert call("evaluate", run.path, "--samples", 5, "--refine", 1) == 0
    shown = capsys.readouterr().out
    assert "pseudo-ELBO, after 1 step for each datum" in shown
    assert call("evaluate", run.path, "--samples", 5, "--refine", 3, "--json") == 0
    assert json.loads(capsys.readouterr().out)["refined"]["elbo"]["mean"] < 0
    for name in ("encode", "reconstruct"):
        out = tmp_path / f"{name}.npz"
        assert call(name, run.path, "--refine", 2, "--out", out) == 0
        assert out.exists()
    assert call("evaluate", run.path, "--full", "--refine", 2) == 2
    assert "refine: goes without --full" in capsys.readouterr().err


def test_encode(run, tmp_path):
    assert call("encode", run.path, "--out", tmp_path / "z.npz", "--seed", 4) == 0
    assert call("encode", run.path, "--out", tmp_path / "z.csv", "--seed", 4) == 0
    arrays = np.load(tmp_path / "z.npz")
    assert arrays["z"].shape == (60, 2)
    with (tmp_path / "z.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["z_1", "z_2", "log_q", "label"]
    assert float(rows[7]["z_2"]) == pytest.approx(arrays["z"][7, 1], rel=1e-6)
    assert [int(row["label"]) for row in rows] == arrays["label"].tolist()
    assert call("encode", run.path, "--split", "train", "--out", tmp_path / "t.npz") == 0
    assert np.load(tmp_path / "t.npz")["log_q"].shape == (200,)


def test_presets_are_configurations(capsys, tmp_path):
    assert call("presets") == 0
    assert "planar" in capsys.readouterr().out
    assert call("presets", "planar") == 0
    (tmp_path / "p.yaml").write_text(capsys.readouterr().out)
    assert flowvae.load_config(tmp_path / "p.yaml") == flowvae.preset("planar")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--preset", "finest"], "--preset"),
        (["train", "--nonsense", "1"], "nonsense: no such field"),
        (["train", "--num-flows"], "num_flows: expected a value"),
        (["train", "mnist"], "unexpected argument 'mnist'"),
        (["train", "--num-flows", "1", "--num-flows=2"], "num_flows: expected once"),
        (
            ["train", "--num-orthogonal", "1"],
            "num_orthogonal: an option of the posterior sylvester_orthogonal",
        ),
        (
            ["train", "--prior.num-flows", "1"],
            "prior.num_flows: the prior standard_normal has no option",
        ),
        (["fit"], "fit"),
        (["train", "--num-flows", "-1"], "num_flows: .*got '-1'"),
        (["train", "--latent-dim", "0"], "latent_dim: .*got 0"),
        (["train", "--latent-dim", "two"], "--latent-dim"),
        (["train", "--condition", "a", "--condition", "b"], "condition: .*2 times; .*as a,b"),
        (["sample", "RUN", "--condition", "a", "--condition", "b"], "condition: .*got 2 times"),
        (["train", "--condition"], "--condition"),
        (["train", "--hidden-dims", "5,x"], "network.hidden_dims.1: .*valid integer.*'x'"),
        (["train", "--data", "absent.npz"], "data: .*absent.npz"),
        (["train", "--data", "nan.npy"], "nan.npy: .*NaN"),
        (["train", "--data", "corrupt"], "corrupt"),
        (["train", "--device", "tpu"], "device: .*'tpu'"),
        (["train", "--device", "cuda:99"], "device: cuda:99 .*CUDA"),
        (["train", "--config", "absent.yaml"], "config: cannot read absent.yaml"),
        (["train", "--config", "a.yaml", "--preset", "planar"], "preset: cannot be given"),
        (["train", "--out", "full"], "out: expected a new or empty folder, got full"),
        (["train", "--out", "nan.npy"], "out: expected a new or empty folder"),
        (["evaluate", "absent"], "run: expected a run folder .* got absent"),
        (["evaluate", "full"], "run: expected a run folder"),
        (["evaluate", "broken"], "run: .*model.safetensors is no model .* or corrupt"),
        (["evaluate", "absent", "--samples", "0"], "--samples"),
        (["sample", "RUN", "--out", "a.jpg"], r"out: expected a file ending in \.png or \.npz"),
        (["sample", "RUN", "--num", "0"], "--num"),
        (["encode", "RUN", "--out", "a.txt"], r"out: expected a file ending in \.npz or \.csv"),
        (["encode", "RUN", "--split", "all"], "--split"),
        (["evaluate", "RUN", "--data", "other.npy"], r"data: .*shape \(6, 5\).*has \(3,\)"),
        (["presets", "finest"], "finest"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, message, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("nan.npy", np.full((9, 4), np.nan))
    np.save("other.npy", np.zeros((9, 3)))
    for folder, file in (("corrupt", "train-images-idx3-ubyte.gz"), ("full", "anything")):
        Path(folder).mkdir()
        Path(folder, file).write_bytes(b"\x1f\x8bno")
    Path("corrupt", "t10k-images-idx3-ubyte").write_bytes(b"no")
    Path("broken").mkdir()
    whole = (run.path / "model.safetensors").read_bytes()
    Path("broken", "model.safetensors").write_bytes(whole[:500])
    before = sorted(tmp_path.rglob("*"))
    assert call(*[run.path if each == "RUN" else each for each in arguments]) == 2
    shown = capsys.readouterr()
    assert re.search(message, shown.err), shown.err
    assert shown.err.startswith("flowvae: ")
    assert shown.err.strip().count("\n") == 0
    assert sorted(tmp_path.rglob("*")) == before


def _wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_interrupted_says_so(how, code, data_file, tmp_path):
    folder = tmp_path / "run"
    process, errors = _stopped(how, data_file, folder)
    assert process.returncode == code
    assert _status(folder) == "interrupted"
    assert "Traceback" not in errors
    assert f"Go on with: flowvae train --resume {folder}" in errors
    assert not list(folder.rglob(".*"))
    _check_files(folder)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_run_that_is_killed_leaves_readable_files(data_file, tmp_path):
    folder = tmp_path / "run"
    _stopped(signal.SIGKILL, data_file, folder)
    assert _status(folder) == "training"
    _check_files(folder)


def _stopped(how: signal.Signals, data_file: Path, folder: Path):
    """A training that got a signal after its first epoch, and what it wrote on standard error."""
    process = start("train", "--data", data_file, "--epochs", 10**6, "--out", folder, *SMALL)
    _wait_for(folder / "metrics.csv", process)
    process.send_signal(how)
    return process, process.communicate(timeout=120)[1]


def _status(folder: Path) -> str:
    return json.loads((folder / "environment.json").read_text())["status"]


def _check_files(folder: Path) -> None:
    assert flowvae.load(folder).sample(2).isfinite().all()
    assert len(flowvae.open_run(folder).metrics) >= 1
    assert call("evaluate", folder, "--samples", 2) == 0
    assert call("figures", folder) == 0


def test_help_is_quick_and_needs_no_torch():
    code = "import sys; from flowvae.cli import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules), 'slow imports'"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_import_is_lazy_and_complete():
    code = "import sys, flowvae; assert 'torch' not in sys.modules; import flowvae as f\n"
    code += "assert all(getattr(f, name) is not None for name in f.__all__)\n"
    code += "assert f.flows.planar_flow and set(f.__all__) <= set(dir(f))"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = flowvae.nonsense


def test_python_m_flowvae_and_version():
    process = start("--version")
    out, _ = process.communicate(timeout=60)
    assert out.strip() == f"flowvae, version {flowvae.__version__}"


def test_pictures_are_of_images_and_names_of_columns_are_plain_text(tmp_path, monkeypatch, capsys):
    """A table whose columns are called as markup, formulas and escapes are."""
    monkeypatch.chdir(tmp_path)
    names = ["[/b]", "$1_$2", "\x1b[31mred"]
    rows = [f"{k * 0.5},{k % 7},{'yes' if k % 2 else 'no'}" for k in range(60)]
    Path("t.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
    assert call("data", "t.csv") == 0
    shown = capsys.readouterr()
    assert "\x1b[31m" not in shown.out
    assert "\\x1b[31mred" in shown.out
    settings = ["--likelihood", "mixed", "--condition", "[/b]", "--epochs", 1, *SMALL]
    assert call("train", "--data", "t.csv", *settings, "--out", "runs/[test] a") == 0
    shown = capsys.readouterr()
    assert "runs/[test] a" in shown.out
    assert "conditioned on [/b]" in shown.err
    for command in ("sample", "reconstruct"):
        assert call(command, "runs/[test] a", "--out", "s.png") == 2
        assert "out: expected a file ending in .npz or .csv, got s.png" in capsys.readouterr().err
    assert call("encode", "runs/[test] a/model.safetensors") == 0
    assert Path("runs/[test] a/latents.npz").exists()

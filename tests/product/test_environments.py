"""Commands where the terminal, the display or the data is not what one has at one's desk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def flowvae(
    *arguments: object, reader: str = "all", **environment: str
) -> tuple[int, bytes, bytes]:
    """Exit code, standard output and error; a reader may be gone after the first line."""
    command = [sys.executable, "-m", "flowvae", *map(str, arguments)]
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if reader == "gone" else subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        if reader == "gone":
            out, err = process.stdout.readline(), b""
            process.stdout.close()
            process.wait(120)
        else:
            out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def small(tmp_path: Path, rows: int) -> list[object]:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((rows, 8)))
    data = ["--data", tmp_path / "a.npy", "--likelihood", "gaussian", "--hidden-dims", 8]
    return ["train", *data, "--epochs", 2, "--evaluation-samples", 4, "--out", tmp_path / "run"]


def status(tmp_path: Path) -> str:
    return json.loads((tmp_path / "run" / "environment.json").read_text())["status"]


def test_a_reader_that_goes_away_ends_no_training(tmp_path):
    code, out, _ = flowvae(*small(tmp_path, 60), reader="gone")
    assert out.startswith(b"Training")
    assert (code, status(tmp_path)) == (0, "finished")


def test_a_terminal_without_the_letters_and_a_display_of_no_known_name(tmp_path):
    code, out, err = flowvae(*small(tmp_path, 60), PYTHONIOENCODING="cp1252", MPLBACKEND="nosuch")
    assert (code, status(tmp_path)) == (0, "finished"), err
    assert b"KL(q(z|x) ? p(z))" in out
    assert (tmp_path / "run" / "figures" / "learning_curves.png").exists()


@pytest.mark.parametrize("trouble", ["broken", "disabled", "no place to keep kernels"])
def test_kernels_that_cannot_be_compiled_or_kept(trouble, tmp_path):
    """Training goes on, and one warning says what is missing."""
    environment, message = {}, b""
    if trouble == "broken":
        (tmp_path / "numba").mkdir()
        (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('needs NumPy 1')")
        environment = {"PYTHONPATH": str(tmp_path)}
        message = b"as plain PyTorch.*numba cannot be used: ImportError: needs NumPy 1"
    elif trouble == "disabled":
        environment = {"NUMBA_DISABLE_JIT": "1"}
        message = b"as plain PyTorch.*NUMBA_DISABLE_JIT is set"
    else:
        (tmp_path / "file").touch()
        environment = {"NUMBA_CACHE_DIR": str(tmp_path / "file")}
        message = b"compiled kernels cannot be kept.*NUMBA_CACHE_DIR"
    code, _, err = flowvae(*small(tmp_path, 60), **environment)
    assert (code, status(tmp_path)) == (0, "finished"), err
    assert len(re.findall(message, err)) == 1
    assert err.count(b"Warning:") == 1


@pytest.mark.parametrize("rows", [10, 20])
def test_one_test_datum_has_no_standard_error(rows, tmp_path):
    code, out, err = flowvae(*small(tmp_path, rows), "--quiet")
    assert (code, status(tmp_path)) == (0, "finished"), err
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    error = found["terms"]["elbo"]["standard_error"]
    assert (error is None) == (found["count"] == 1) == (rows == 10)
    assert (b"no standard error: one datum" in out) == (rows == 10)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--threads", 100_000], 2, "threads: input should be less than or equal to 1024"),
        (["--learning-rate", "inf"], 2, "learning_rate: input should be a finite number"),
        (["--epochs", 2**63], 2, "epochs: input should be less than or equal to"),
        (["--posterior", "os:system"], 2, "posterior: expected a torch.nn.Module"),
        (["--posterior", "json:JSONDecoder"], 2, "posterior: expected a torch.nn.Module"),
        (["--beta", "1e308"], 1, "the gradient was not finite"),
    ],
)
def test_flags_out_of_range_are_one_line(flags, code, message, tmp_path, capsys):
    from flowvae.cli import main

    with pytest.raises(SystemExit) as stop:
        main([*map(str, small(tmp_path, 60)), *map(str, flags), "--quiet"])
    shown = capsys.readouterr().err
    assert stop.value.code == code
    assert shown.startswith("flowvae: ")
    assert message in shown
    assert shown.count("\n") == 1

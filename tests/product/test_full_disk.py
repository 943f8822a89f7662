"""A file system that is full: one line that names the file, and all that was whole stays so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import flowvae
from tests.helpers.fuzzing import check_command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system as Linux does"),
]


@pytest.fixture(params=[100, 200, 330, 600])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty one of so many KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(disk, tmp_path, capfd):
    pixels = np.random.default_rng(0).random((60, 6, 5))
    np.savez(tmp_path / "data.npz", x_train=pixels[:50], x_test=pixels[50:])
    run = disk / "run"
    command = ["train", "--data", str(tmp_path / "data.npz"), "--out", str(run), "--epochs", "2"]
    command += ["--hidden-dims", "200", "--evaluation-samples", "2", "--quiet"]
    assert check_command(command, codes=(2,), seconds=120) is None
    assert not [
        file.name for file in run.rglob("*") if ".new-" in file.name or file.name == ".lock"
    ]
    for file in run.rglob("*.json"):
        json.loads(file.read_text())
    if (run / "model.safetensors").exists():
        flowvae.load(run)
    if (run / "checkpoint.safetensors").exists():  # on a larger disk it goes on
        shutil.copytree(run, tmp_path / "run")
        found = flowvae.resume(tmp_path / "run", epochs=3, progress=False, finish=False)
        assert len(found.metrics) == 3

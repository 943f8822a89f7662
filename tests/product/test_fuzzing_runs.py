"""Run folders of which a file is damaged or tampered with: one line, and nothing is changed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import flowvae.api
from tests.helpers.fuzzing import check_command, damaged_bytes, damaged_value

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")

KEPT = ("checkpoint.safetensors", "config.yaml", "metrics.csv", "model.safetensors")


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    """They take longer than all the rest, and none is damaged here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flowvae.api, "draw_figures", lambda run: [])
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its second epoch, with everything that a checkpoint can hold."""
    folder = tmp_path_factory.mktemp("whole")
    pixels = np.random.default_rng(0).random((40, 6, 5))
    np.savez(folder / "data.npz", x_train=pixels[:30], x_test=pixels[30:])
    command = ["train", "--data", folder / "data.npz", "--out", folder / "run", "--epochs", 1]
    command += ["--hidden-dims", 4, "--batch-size", 10, "--evaluation-samples", 2, "--quiet"]
    command += ["--averaging", 0.9, "--schedule", "cosine", "--max-grad-ratio", 3]
    command += ["--validation-fraction", 0.2, "--patience", 2]
    assert check_command([str(word) for word in command], codes=(0,), seconds=60) is None
    return folder / "run"


def check_all(
    cases: int, whole: Path, run: Path, name: str, damage: Callable[[Path, Random], None]
) -> None:
    """Go on with a copy of the run whose file of this name is damaged."""
    wrong = []
    for n in range(cases):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        damage(run / name, Random(n))  # noqa: S311
        before = {file: (run / file).read_bytes() for file in KEPT}
        arguments = ["train", "--resume", str(run), "--epochs", "2", "--quiet"]
        found = check_command(arguments, codes=(0, 1, 2), refused=lambda: _changed(run, before))  # noqa: B023
        if found:
            wrong.append(f"case {n}: {found}")
    assert not wrong, f"{len(wrong)} of {cases}:\n" + "\n".join(wrong[:20])


def _changed(run: Path, before: dict[str, bytes]) -> str | None:
    """What a refusal must not leave."""
    for file, content in before.items():
        if (run / file).read_bytes() != content:
            return f"{file} was changed"
    left = [file.name for file in run.rglob("*") if ".new-" in file.name or file.name == ".lock"]
    return f"{left} are left" if left else None


def bytes_of(file: Path, random: Random) -> None:
    file.write_bytes(damaged_bytes(file.read_bytes(), random))


def header_of(file: Path, random: Random) -> None:
    """Numbers, rows of metrics, digest and the rest, as a stranger could write them."""
    tensors, header = _opened(file)
    about = json.loads(header["flowvae-checkpoint"])
    save_file(
        tensors, file, {"flowvae-checkpoint": json.dumps(damaged_value(about, random), default=str)}
    )


def tensors_of(file: Path, random: Random) -> None:
    """A tensor less, of another shape or kind, or of no numbers."""
    tensors, header = _opened(file)
    name = random.choice(sorted(tensors))
    value = tensors[name]
    other: list[Any] = [
        None,
        value[..., None],
        value.ravel()[:0],
        value.astype(np.float64),
        value.astype(np.uint8),
        np.full_like(value, -1) if value.dtype != np.uint8 else np.full_like(value, 255),
        np.zeros((10, 10), np.float32),
    ]
    if value.dtype.kind == "f":
        other += [value * np.nan, value + np.inf, value * 1e30]
    chosen = random.choice(other)
    if chosen is None:
        del tensors[name]
    else:
        tensors[name] = np.ascontiguousarray(chosen)
    save_file(tensors, file, header)


def _opened(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safe_open(file, "np") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return tensors, opened.metadata()


@pytest.mark.parametrize(
    ("name", "damage", "cases"),
    [
        ("checkpoint.safetensors", bytes_of, 100),
        ("checkpoint.safetensors", header_of, 120),
        ("checkpoint.safetensors", tensors_of, 120),
        ("config.yaml", bytes_of, 60),
        ("metrics.csv", bytes_of, 60),
    ],
)
def test_resuming(whole, tmp_path, name, damage, cases):
    check_all(cases, whole, tmp_path / "run", name, damage)


def test_what_is_read_beside_the_model(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    opened, refused = flowvae.open_run(run), 0
    for n in range(200):
        name, field = [("metrics.csv", "metrics"), ("evaluation.json", "evaluation")][n % 2]
        shutil.copy(whole / name, run / name)
        bytes_of(run / name, Random(n))  # noqa: S311
        try:
            getattr(opened, field)
        except flowvae.UserError:
            refused += 1
    assert refused > 20


def test_a_lock_that_nobody_holds_or_that_is_no_file(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    command = ["train", "--resume", str(run), "--epochs", "1", "--quiet"]
    (run / ".lock").write_bytes(b"\x00junk")
    assert check_command(command, codes=(0,)) is None
    (run / ".lock").unlink(missing_ok=True)
    (run / ".lock").mkdir()
    assert check_command(command, codes=(2,)) is None
    (run / ".lock").rmdir()
    (run / ".lock").symlink_to(tmp_path / "elsewhere")
    assert check_command(command) is None
    assert not (tmp_path / "elsewhere").exists() or not (tmp_path / "elsewhere").read_bytes()

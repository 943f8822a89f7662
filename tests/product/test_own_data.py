"""The same commands on a user's data: grey and colour pictures, tables; and runs of before."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flowvae
from tests.helpers.making import call

SMALL = ["--hidden-dims", "16", "--batch-size", "32", "--evaluation-samples", "4", "--epochs", "1"]


def grey(folder: Path) -> tuple[Path, list[str]]:
    rng = np.random.default_rng(0)
    for number in range(60):
        picture = rng.integers(0, 256, (28, 20), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder, []


def colour(folder: Path) -> tuple[Path, list[str]]:
    rng = np.random.default_rng(0)
    for number in range(60):
        kind = folder / "ab"[number % 2]
        kind.mkdir(exist_ok=True)
        picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(kind / f"{number}.png")
    return folder, []


def table(folder: Path) -> tuple[Path, list[str]]:
    """27 columns of numbers, two of categories, one of true and false, and a label."""
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*(f"x{k}" for k in range(27)), "city", "grade", "member", "kind"])
        for k in range(120):
            names = [rng.choice(["Oslo", "Rome", "Lima"]), rng.choice(list("ABCDE"))]
            truth = ["true", "false"][int(rng.integers(0, 2))]
            out.writerow([*rng.normal(k % 2, 1, 27), *names, truth, ["p", "q"][k % 2]])
    return folder / "table.csv", ["--label-column", "kind", "--likelihood", "mixed"]


@pytest.mark.parametrize(
    ("make", "shape"), [(grey, (28, 20)), (colour, (3, 32, 32)), (table, (27 + 3 + 5 + 1,))]
)
def test_the_same_commands_work(make, shape, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    data, options = make(tmp_path / "data")
    run = tmp_path / "run"
    # D = 3: the picture of posteriors, which takes its time, is for D = 2.
    arguments = ["--data", data, "--out", run, "--latent-dim", 3, "--validation-fraction", 0.2]
    assert call("train", *arguments, *options, *SMALL, "--quiet") == 0
    assert flowvae.load(run).data_shape == shape
    assert call("evaluate", run, "--samples", 3) == 0
    for command in ("sample", "reconstruct", "encode", "figures"):
        assert call(command, run) == 0
    written = {file.name for file in run.iterdir()}
    suffix = ".csv" if make is table else ".png"
    assert {f"samples{suffix}", f"reconstructions{suffix}", "latents.npz"} <= written
    pictures = {file.stem for file in (run / "figures").iterdir()}
    images = set() if make is table else {"reconstructions", "samples"}
    assert pictures == {"learning_curves", "latent_space"} | images
    assert ("label" in np.load(run / "latents.npz")) == (make is not grey)
    about = json.loads((run / "environment.json").read_text())["data"]
    assert about["shape"] == list(shape)
    assert about["validation"] > 0
    capsys.readouterr()
    flags = [] if make is not table else options[:2]
    assert call("data", data, *flags) == 0
    shown = capsys.readouterr().out
    assert str(shape) in shown
    assert f"likelihoods  {'gaussian' if make is table else 'bernoulli'}" in shown
    assert ("city: categorical, Lima, Oslo, Rome" in shown) == (make is table)


RNG = np.random.default_rng(0)


OUTSIDE = {  # what a likelihood was trained on, and data of this shape that it is not defined on
    "bernoulli": (RNG.random((40, 6)), RNG.integers(0, 9, (40, 6))),
    "continuous_bernoulli": (RNG.random((40, 6)), 2 * RNG.random((40, 6))),
    "discretized_logistic": (RNG.integers(0, 256, (40, 6), dtype=np.uint8), RNG.random((40, 6))),
    "poisson": (RNG.integers(0, 9, (40, 6)), RNG.random((40, 6))),
    "categorical": (RNG.integers(0, 4, (40, 6)), RNG.integers(0, 5, (40, 6))),
}


DOORS = {
    "evaluate": ["evaluate", "--samples", 2],
    "evaluate --full": ["evaluate", "--full"],
    "encode": ["encode"],
    "encode the training split": ["encode", "--split", "train"],
    "reconstruct": ["reconstruct"],
    "figures": ["figures"],
}


@pytest.mark.parametrize("likelihood", OUTSIDE)
def test_data_outside_the_support_is_refused_at_every_door(likelihood, tmp_path, capsys):
    for name, array in zip(("good", "bad"), OUTSIDE[likelihood], strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    run = flowvae.train(
        "planar", data=str(tmp_path / "good.npy"), out=tmp_path / "run", likelihood=likelihood,
        hidden_dims=(4,), latent_dim=3, epochs=1, finish=False, progress=False,
        **({"num_categories": 4} if likelihood == "categorical" else {}),
    )  # fmt: skip
    before = sorted(path.name for path in run.path.rglob("*"))
    capsys.readouterr()
    for first, *rest in DOORS.values():
        assert call(first, run.path, *rest, "--data", tmp_path / "bad.npy") == 2
        shown = capsys.readouterr().err
        assert shown.startswith(f"flowvae: likelihood: {likelihood} expects ")
        assert shown.count("\n") == 1
    assert sorted(path.name for path in run.path.rglob("*")) == before
    assert call("encode", run.path, "--data", tmp_path / "good.npy") == 0

"""Runs beside each other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import flowvae
from flowvae import UserError
from flowvae.data import Dataset
from flowvae.evaluation import (
    bits_per_dim,
    check_comparable,
)
from flowvae.runs import Run
from tests.helpers.making import call


def test_differences_are_paired(binary_runs, tmp_path, capsys):
    a, b = binary_runs[:2]
    assert call("compare", a.path, b.path, "--samples", 40, "--out", tmp_path) == 0
    shown = capsys.readouterr().out
    found = flowvae.compare(a, b, samples=40, progress=False)
    summary = json.loads((tmp_path / "compare.json").read_text())
    assert summary == found.summary
    first, second = found.per_datum
    difference = second["iw_bound"] - first["iw_bound"]
    got = summary["runs"][1]["difference"]["iw_bound"]
    assert got["mean"] == pytest.approx(difference.mean().item())
    assert got["standard_error"] == pytest.approx(difference.std().item() / 60**0.5)
    assert f"{got['mean']:.2f} ± {got['standard_error']:.2f}" in shown
    assert (tmp_path / "compare.png").stat().st_size > 5000
    assert [run["name"] for run in summary["runs"]] == ["flows", "gaussian"]
    assert summary["runs"][0]["difference"]["elbo"] == {"mean": 0.0, "standard_error": 0.0}


def _with_data(run: Run, dataset: Dataset) -> Run:
    return Run(run.path, run.config, run.model, dataset)


def test_what_cannot_be_compared_is_refused(binary_runs, run, data_file, tmp_path, capsys):
    first = binary_runs[0]
    rng = np.random.default_rng(3)
    other = Dataset.from_arrays(rng.random((9, 6, 5)), rng.random((60, 6, 5)), name="other")
    same_name = Dataset.from_arrays(
        (rng.random((9, 6, 5)) > 0.5).astype(np.uint8) * 255,
        (rng.random((60, 6, 5)) > 0.5).astype(np.uint8) * 255,
        name=first.dataset.name,
    )
    same_name = flowvae.data.binarize(same_name, "static")
    for runs, reason in (
        ([first], "expected at least 2 runs, got 1"),
        ([first, run], "differ in binarization: none and static"),
        ([run, _with_data(run, other)], "differ in data: other and"),
        ([first, _with_data(first, same_name)], "tested on different splits of"),
    ):
        with pytest.raises(UserError, match=reason):
            check_comparable(runs)
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "out"
    assert call("compare", first.path, run.path, "--out", out) == 2
    assert "differ in binarization" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pseudo_likelihood_is_not_compared_with_a_likelihood(run):
    """The same grey data under a likelihood that is defined on it."""

    class Real(torch.nn.Module):
        """Says nothing of what it measures."""

    model = flowvae.load(run.path)
    model.likelihood = Real()
    other = Run(run.path, run.config, model, run.dataset)
    assert bits_per_dim(model, run.dataset)[0] is None
    with pytest.raises(UserError, match="a density in .* and a pseudo-likelihood in"):
        check_comparable([run, other])


def test_runs_that_measure_something_else_are_not_compared(tmp_path):
    counts = np.random.default_rng(0).poisson(3.0, (80, 4)).astype(float)
    np.save(tmp_path / "counts.npy", counts)
    runs = [
        flowvae.train(
            "original", data=str(tmp_path / "counts.npy"), likelihood=name, epochs=1,
            hidden_dims=(4,), evaluation_samples=2, out=tmp_path / name, progress=False,
        )
        for name in ("poisson", "gaussian", "negative_binomial")
    ]  # fmt: skip
    with pytest.raises(flowvae.UserError, match="a density in .*gaussian and a probability in"):
        flowvae.compare(runs[0], runs[1], progress=False)
    found = flowvae.compare(runs[0], runs[2], samples=2, progress=False)
    assert found.summary["measure"] == "probability"
    assert found.summary["runs"][0]["iw_bound_bits_per_dim"] is not None


def test_what_is_there_has_no_bits_per_dimension(tmp_path):
    x = (np.random.default_rng(0).random((80, 6)) < 0.5).astype(float)
    for gaps in (False, True):
        if gaps:
            x[::2, :3] = np.nan
        run = flowvae.train(
            "original", dataset=Dataset.from_arrays(x[:60], x[60:], missing=True), missing="model",
            epochs=1, hidden_dims=(4,), evaluation_samples=2, out=tmp_path / str(gaps),
            progress=False,
        )  # fmt: skip
        factor, reason = bits_per_dim(run.model, run.dataset)
        assert (factor is None) == gaps
        assert ("how much that is" in reason) == gaps

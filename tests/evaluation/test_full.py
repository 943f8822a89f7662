"""The full evaluation: what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import json
import re

import matplotlib.image
import numpy as np
import pytest
import torch

import flowvae
from flowvae.cli import FULL
from flowvae.evaluation import FullSettings
from flowvae.evaluation.markdown import table
from flowvae.runs import Run
from tests.helpers.making import call

SMALL = {
    "samples": 60,
    "mixture_count": 25,
    "quadrature_count": 20,
    "ais_count": 12,
    "ais_chains": 4,
    "ais_temperatures": 20,
    "ais_leapfrog": 3,
    "bdmc_count": 5,
    "gap_count": 6,
    "gap_steps": 20,
    "refine_count": 15,
    "refine_steps": 3,
    "information_count": 30,
}


FLAGS = [part for name, n in SMALL.items() for part in (f"--{name.replace('_', '-')}", n)]


def test_full_evaluation_writes_all_it_found(binary_runs, capsys):
    path = binary_runs[0].path
    assert call("evaluate", path, "--full", *FLAGS) == 0
    shown = capsys.readouterr().out
    found = json.loads((path / "evaluation" / "full.json").read_text())
    assert f"{found['importance']['elbo']['mean']:.3f} ±" in shown
    assert "pseudo" not in shown
    assert found["pseudo_likelihood"] is False
    assert found["quadrature"]["count"] == 20
    assert found["mixture"]["count"] == 25
    assert abs(found["checks"]["mixture - quadrature"]["mean"]) < 0.5
    assert found["importance"]["count"] == 60
    assert abs(found["checks"]["importance - quadrature"]["mean"]) < 0.5
    rest = found["checks"]["elbo + kl - quadrature"]
    assert abs(rest["mean"]) < 6 * rest["standard_error"] + 0.05
    gaps = found["gaps"]
    assert gaps["inference_gap"]["mean"] == pytest.approx(
        gaps["approximation_gap"]["mean"] + gaps["amortization_gap"]["mean"]
    )
    assert gaps["approximation_gap"]["mean"] > -0.05
    refined = found["refined"]
    assert (refined["count"], refined["steps"]) == (15, 3)
    assert refined["kl_to_true_posterior"]["mean"] < 0.1
    assert "by 3 steps from the encoder's answer, the ELBO is" in shown
    information = found["information"]
    assert 0 <= information["active_units"] <= 2
    assert found["bits_per_dim"]["factor"] == pytest.approx(-1 / (30 * np.log(2)))
    written = (path / "evaluation" / "full.md").read_text()
    assert r"KL(q(z\|x) ‖ p(z))" in written
    assert "KL(q(z|x) ‖ p(z))" in shown
    rows = [line for line in written.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 4, 6}
    picture = matplotlib.image.imread(path / "figures" / "evaluation.png")
    assert picture[..., :3].std() > 0.05


def test_a_stopped_evaluation_goes_on_where_it_was(binary_runs, tmp_path, monkeypatch):
    """Stopped in annealing: what was finished is not computed again, and the result is the same."""
    from flowvae.evaluation import full

    run = Run(tmp_path, binary_runs[0].config, binary_runs[0].model, binary_runs[0].dataset)
    settings = FullSettings(**SMALL)
    whole = flowvae.evaluate_full(binary_runs[0], settings, progress=False)
    real = full.annealed_importance_sampling
    calls = []

    def stops(model, x, **options):
        calls.append(len(x))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(model, x, **options)

    monkeypatch.setattr(full, "annealed_importance_sampling", stops)
    with pytest.raises(KeyboardInterrupt):
        flowvae.evaluate_full(run, settings, progress=False)
    assert calls == [10, 2]
    assert not (tmp_path / "evaluation" / "full.json").exists()
    assert not [file for file in tmp_path.rglob("*") if file.name.startswith(".")]

    def never(*_, **__):
        raise AssertionError("computed twice")

    monkeypatch.setattr(full, "importance_sampling", never)
    monkeypatch.setattr(full, "quadrature", never)
    again = flowvae.evaluate_full(run, settings, progress=False)
    assert calls == [10, 2, 2]
    assert again.summary == whole.summary

    monkeypatch.undo()
    with torch.no_grad():  # other weights: nothing of the old is used
        other = flowvae.load(binary_runs[0].path)
        next(other.parameters()).mul_(1.5)
    changed = Run(tmp_path, run.config, other, run.dataset)
    found = flowvae.evaluate_full(changed, settings, progress=False)
    assert found["importance"]["elbo"] != whole["importance"]["elbo"]


def test_grey_pixels_are_called_a_pseudo_likelihood_everywhere(run, capsys, tmp_path):
    assert call("evaluate", run.path, "--full", *FLAGS) == 0
    shown = capsys.readouterr().out
    assert "pseudo-ELBO" in shown
    assert "pseudo-log p(x), annealing" in shown
    assert "never compare it with results on binary" in shown
    assert json.loads((run.path / "evaluation" / "full.json").read_text())["pseudo_likelihood"]
    assert call("compare", run.path, run.path, "--samples", 30, "--out", tmp_path) == 0
    shown = capsys.readouterr().out
    assert "pseudo-log p(x)" in shown
    assert "never compare it with results on binary" in shown
    assert json.loads((tmp_path / "compare.json").read_text())["pseudo_likelihood"] is True
    assert "pseudo" in (tmp_path / "compare.md").read_text()


def test_three_dimensions_have_no_quadrature(binary_runs):
    found = flowvae.evaluate_full(binary_runs[2], FullSettings(**SMALL), progress=False)
    assert "quadrature" not in found.summary
    assert found["gaps"]["log_prob_by"].startswith("importance sampling")
    assert (binary_runs[2].figures / "evaluation.png").exists()


def test_flags_say_what_the_settings_are():
    """Help shows the defaults of FullSettings, and has a flag for each."""
    fields = {name: f.default for name, f in FullSettings.__dataclass_fields__.items()}
    del fields["samples"]
    assert set(FULL) == set(fields)
    for name, default in fields.items():
        assert f"[{'all' if default is None else default}]" in FULL[name]


def test_bad_use_of_full(run, capsys):
    assert call("evaluate", run.path, "--ais-count", 3) == 2
    assert "ais-count: goes with --full only" in capsys.readouterr().err
    with pytest.raises(ValueError, match="gap_steps: expected at least 1, got 0"):
        FullSettings(gap_steps=0)


def test_a_bar_does_not_end_a_cell():
    assert table(["a"], [["p(x|z)"]]).splitlines()[2] == r"| p(x\|z) |"

"""Run folders: read back, of old versions, without pickles."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import flowvae
from flowvae.runs import write_model
from tests.helpers import OLD_RUNS
from tests.helpers.making import call, seeded


def test_a_model_file_with_foreign_content_is_refused(run, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(flowvae.UserError, match="no model of flowvae's"):
        flowvae.load(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value, run, tmp_path, capsys):
    model = flowvae.load(run.path)
    with torch.no_grad():
        model.get_parameter("decoder.1.bias")[3] = value
    write_model(tmp_path / "model.safetensors", model, run.config)
    before = sorted(tmp_path.iterdir())
    for command in ("export", "explore", "traverse", "interpolate"):
        assert call(command, tmp_path) == 2
        error = capsys.readouterr().err
        assert f"{tmp_path / 'model.safetensors'}: weight decoder.1.bias is not finite" in error
        assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_in_a_run_is_a_pickle(run):
    kinds = {"", ".yaml", ".safetensors", ".csv", ".json", ".md", ".png", ".npz"}
    for path in run.path.rglob("*"):
        assert path.suffix in kinds or path.name.startswith("events")
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                dict(arrays)
    json.loads((run.path / "environment.json").read_text())


def test_load_gives_the_same_model(run):
    model = flowvae.load(run.path)
    assert isinstance(model, flowvae.VAE)
    assert not model.training
    x = run.dataset.test.values()
    for given, kept in zip(model.posterior(x).base.loc, run.model.posterior(x).base.loc):  # noqa: B905
        assert torch.equal(given, kept)
    alone = flowvae.load(run.path / "model.safetensors", device="cpu")
    assert torch.equal(alone.sample(2, seeded()), model.sample(2, seeded()))


OLD = OLD_RUNS / "version_0.1"


def test_runs_of_version_0_1_still_load(tmp_path, monkeypatch):
    """A run that was written before columns, validation splits and their fields were there."""
    model = flowvae.load(OLD)
    assert model.columns is None
    drawn = model.sample(1, torch.Generator().manual_seed(0))[0, :5]
    # What that version printed for this draw.
    expected = [0.5789074, 0.5054608, 0.5312630, 0.4899762, 0.4226471]
    np.testing.assert_allclose(drawn.detach(), expected, atol=1e-6)
    monkeypatch.chdir(tmp_path)
    np.savez("old.npz", x=np.random.default_rng(0).random((40, 6, 5)))
    opened = flowvae.open_run(OLD, "cpu", data="old.npz")
    assert opened.config.validation_fraction == 0
    assert len(opened.dataset.test) == 4
    config = flowvae.load_config(OLD / "config.yaml", epochs=1, evaluation_samples=3)
    again = flowvae.train(config, out=tmp_path / "again", finish=False, progress=False)
    x = opened.dataset.test.values()
    # The same settings go on working; draws come from other generators than in that version.
    assert again.config.model_dump(exclude={"data": {"source"}}) == config.model_dump(
        exclude={"data": {"source"}}
    )
    assert again.model.posterior(x).base.loc.shape == opened.model.posterior(x).base.loc.shape


def test_an_evaluation_that_lacks_a_term_is_corrupt(run, tmp_path):
    fields = json.loads((run.path / "evaluation.json").read_text())
    for broken in ({}, {"mean": None, "standard_error": None}, {"mean": "x", "standard_error": 1}):
        fields["terms"]["kl"] = broken
        (tmp_path / "evaluation.json").write_text(json.dumps(fields))
        damaged = flowvae.runs.Run(tmp_path, run.config, run.model, run.dataset)
        with pytest.raises(flowvae.UserError, match=r"evaluation\.json is corrupt"):
            _ = damaged.evaluation

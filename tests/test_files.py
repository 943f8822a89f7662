"""Files are written whole or not at all."""

from __future__ import annotations

import json
import stat

import pytest
import torch

import flowvae
from flowvae.files import replacing, write_csv, write_json, write_text


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def fail() -> None:
        with replacing(file) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half"):
        fail()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="finite numbers, got nan for x"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_folders_are_made_and_modes_are_ordinary(tmp_path):
    file = tmp_path / "new" / "a.csv"
    write_csv(file, ["a", "b"], [(1, "x,y")])
    assert file.read_text() == 'a,b\n1,"x,y"\n'
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_model_file_with_foreign_content_is_refused(run, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(flowvae.UserError, match="no model of flowvae's"):
        flowvae.load(tmp_path)


def test_nothing_in_a_run_is_a_pickle(run):
    for path in run.path.rglob("*"):
        assert path.suffix in {"", ".yaml", ".safetensors", ".csv", ".json", ".png"} or (
            path.name.startswith("events")
        )
    json.loads((run.path / "environment.json").read_text())

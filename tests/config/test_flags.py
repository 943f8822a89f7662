"""A flag for every value, and the help."""

from __future__ import annotations

import pytest

import flowvae
from flowvae.config import Config, preset
from flowvae.config.placing import KINDS, short_names
from tests.helpers.making import call


def test_every_value_is_a_flag_in_the_help(capsys):
    assert call("train", "--help") == 0
    text = capsys.readouterr().out
    for name in [*short_names(flowvae.Config), *KINDS, "seed", "preset"]:
        assert f"--{'data' if name == 'source' else name.replace('_', '-')}" in text


def test_the_help_beside_a_family_lists_its_options(capsys):
    assert call("train", "--posterior", "sylvester_orthogonal", "--prior=flow", "--help") == 0
    text = capsys.readouterr().out
    own = text.partition("Options of the posterior sylvester_orthogonal")[2]
    assert "--num-orthogonal INTEGER" in own
    assert "Options of the prior flow" in own
    assert "--hidden-dims N[,N…]" in own


@pytest.mark.parametrize("name", [*short_names(Config), *preset("original").objective.options()])
def test_every_value_can_be_set_by_its_flag(name, tmp_path, capsys):
    """Each in turn, with a value that its type takes: what is wrong is then the missing data."""
    if name == "source":
        return
    default = getattr(preset("original"), name)
    some = {None: "3", (): "3,4", "": "x"}.get(default, default)
    if isinstance(some, tuple):
        some = ",".join(map(str, some))
    flag = f"--{name.replace('_', '-')}"
    out = tmp_path / "run"
    assert call("train", "--data", tmp_path / "absent.npy", flag, some, "--out", out) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert not out.exists()

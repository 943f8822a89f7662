"""Configurations in files, and runs of version 1."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowvae
from flowvae import PRESETS, UserError, load_config, preset
from flowvae.config import layered, outside_modules, resolve_config
from tests.helpers import OLD_RUNS

OLD = OLD_RUNS / "version_1"


@given(
    K=st.integers(0, 99),
    widths=st.lists(st.integers(1, 999), min_size=1, max_size=4),
    rate=st.floats(1e-9, 1.0),
    name=st.sampled_from(sorted(PRESETS)),
)
def test_yaml_round_trip(K, widths, rate, name, tmp_path):
    flows = {} if name == "gaussian" else {"num_flows": K}
    config = resolve_config(
        preset=name, hidden_dims=tuple(widths), learning_rate=rate, data="a: b # c", **flows
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == config


def test_part_of_a_configuration_over_a_preset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: planar\nlearning_rate: 1e-4\n")
    config = load_config(file, epochs=3)
    assert (config.num_flows, config.learning_rate, config.epochs) == (16, 1e-4, 3)


@pytest.mark.parametrize("text", ["", "- 1\n- 2", "a: [", "\x00", "3: 4"])
def test_files_that_hold_no_configuration(text, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="^config: ") as error:
        load_config(file)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="config: cannot read .*absent"):
        load_config(tmp_path / "absent.yaml")


def test_what_would_be_imported_is_found_wherever_it_stands():
    for fields in (
        {"posterior": "evil:Class"},
        {"model": {"posterior": {"name": "evil:Class"}}},
        {"model.posterior.name": "evil:Class", "posterior": "planar"},
        {"model": {"posterior.name": "evil:Class"}},
        {"version": 1, "posterior": "evil:Class"},
    ):
        assert outside_modules(fields) == {"posterior": "evil:Class"}
    assert outside_modules(preset("original").model_dump()) == {}


@pytest.mark.parametrize("name", sorted(json.loads((OLD / "expected.json").read_text())))
def test_runs_of_version_1_load_and_give_the_same(name):
    """Files written before there were sections."""
    expected = json.loads((OLD / "expected.json").read_text())[name]
    model = flowvae.load(OLD / name)
    x = (torch.arange(2 * model.data_dim).reshape(2, -1) % 3 == 0).float()
    if model.columns is not None:
        x[:, 1:4] = torch.eye(3)[[0, 2]]
    found = model.elbo(x, 2, torch.Generator().manual_seed(0))
    # The negative binomial's log r was 7 tanh(raw / 7) in those days; its limit is further now.
    tolerance = 1e-3 if name == "counts" else 1e-5
    torch.testing.assert_close(found, torch.tensor(expected), rtol=tolerance, atol=tolerance)
    config = load_config(OLD / name / "config.yaml")
    assert config.version == 2
    assert layered(config.model_dump()) == config
    assert flowvae.open_run(OLD / name, "cpu").config == config


def test_no_name_of_a_value_is_taken_for_that_of_the_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("epochs: 3\n")
    with pytest.raises(UserError, match="path: "):
        load_config(file, path="x")

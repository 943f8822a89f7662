"""The configuration: presets, YAML both ways, errors in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowvae import PRESETS, Config, UserError, load_config, preset
from flowvae.config import resolve_config
from flowvae.registry import POSTERIORS


def test_original_is_the_starting_text():
    config = preset("original")
    assert config == Config()
    assert (config.hidden_dims, config.latent_dim, config.num_flows) == ((500,), 2, 3)
    assert (config.learning_rate, config.weight_decay) == (1e-3, 1e-5)
    assert (config.epochs, config.batch_size) == (100, 100)
    assert (config.constraint, config.binarization) == ("paper", "none")


def test_sigma_is_a_name_or_a_number():
    assert resolve_config(sigma="0.25").sigma == resolve_config(sigma=0.25).sigma == 0.25
    assert resolve_config(sigma="per_pixel").sigma == "per_pixel"


def test_the_other_presets():
    assert preset("gaussian").num_flows == 0
    assert (preset("planar").num_flows, preset("planar").constraint) == (16, "centred")
    assert set(PRESETS) == {"original", "gaussian", "planar"}


@given(
    K=st.integers(0, 99),
    widths=st.lists(st.integers(1, 999), min_size=1, max_size=4),
    rate=st.floats(1e-9, 1.0),
    name=st.sampled_from(sorted(PRESETS)),
)
def test_yaml_round_trip(K, widths, rate, name, tmp_path):
    config = resolve_config(
        preset=name, num_flows=K, hidden_dims=tuple(widths), learning_rate=rate, data="a: b # c"
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == config


def test_part_of_a_configuration_over_a_preset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: planar\nlearning_rate: 1e-4\n")
    config = load_config(file, epochs=3)
    assert (config.num_flows, config.learning_rate, config.epochs) == (16, 1e-4, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_dim": 0}, "latent_dim: input should be greater than or equal to 1, got 0"),
        ({"num_flows": -1}, r"num_flows: .*greater than or equal to 0, got -1"),
        ({"constraint": "x"}, "constraint: input should be 'paper' or 'centred', got 'x'"),
        ({"flows": 3}, r"flows: no such field; did you mean num_flows"),
        ({"preset": "best"}, "preset: expected one of original, gaussian, planar, got 'best'"),
        ({"posterior": "iafs"}, "posterior: expected one of .*planar.*, got 'iafs'"),
        ({"device": "tpu"}, "device: expected auto, cpu, cuda, cuda:N or mps, got 'tpu'"),
        ({"hidden_dims": ()}, "hidden_dims: .*at least 1"),
        ({"learning_rate": 0}, "learning_rate: .*greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate: .*got nan"),
        ({"epochs": "many"}, "epochs: .*valid integer.*got 'many'"),
        ({"sigma": -1}, "sigma: expected learned, per_pixel or a number > 0, got -1"),
        ({"sigma": "wide"}, "sigma: expected learned, per_pixel or a number > 0, got 'wide'"),
        ({"version": 2}, "version: .*got 2"),
    ],
)
def test_bad_fields_are_named_in_one_line(fields, message):
    with pytest.raises(UserError, match=message) as error:
        resolve_config(**fields)
    assert "\n" not in str(error.value)


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


def test_registry_names_what_it_has():
    assert POSTERIORS["planar"].__name__ == "PlanarPosterior"
    with pytest.raises(ValueError, match="posterior: expected one of .*planar.*, got 'x'"):
        POSTERIORS["x"]
    assert "x" not in POSTERIORS

"""The configuration: presets, YAML both ways, errors in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

import flowvae
from flowvae import PRESETS, Config, UserError, load_config, preset
from flowvae.config import Part, layered, outside_modules, resolve_config
from flowvae.config.options import options_of
from flowvae.posteriors import PlanarPosterior
from flowvae.registry import FAMILIES, POSTERIORS

OLD = Path(__file__).parent / "runs" / "version_1"


def test_original_is_the_starting_text():
    config = preset("original")
    assert config == Config()
    assert (config.hidden_dims, config.latent_dim, config.num_flows) == ((500,), 2, 3)
    assert (config.learning_rate, config.weight_decay) == (1e-3, 1e-5)
    assert (config.epochs, config.batch_size) == (100, 100)
    assert (config.constraint, config.binarization) == ("paper", "none")


def test_sigma_is_a_name_or_a_number():
    for said, expected in (("0.25", 0.25), (0.25, 0.25), ("per_pixel", "per_pixel")):
        config = resolve_config(likelihood="gaussian", sigma=said)
        assert config.model.likelihood.sigma == expected


def test_the_other_presets():
    assert preset("gaussian").model.posterior == Part(name="gaussian")
    assert (preset("planar").num_flows, preset("planar").constraint) == (16, "centred")
    assert set(PRESETS) == {"original", "gaussian", "planar"}


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
        (
            {"likelihood": "gaussian", "sigma": -1},
            "sigma: expected learned, .*> 0, got -1",
        ),
        (
            {"likelihood": "gaussian", "sigma": "wide"},
            "sigma: expected .*> 0, got 'wide'",
        ),
        ({"version": 3}, "version: .*got 3"),
        ({"sigma": 1.0}, "sigma: an option of the likelihood gaussian; chosen are .*bernoulli"),
        ({"posterior": {"name": "planar", "nums": 1}}, "posterior.nums: .* no option nums"),
        ({"posterior.num_flows": -1}, "posterior.num_flows: .*got -1"),
        ({"training": {"epoch": 1}}, "training.epoch: no such field; did you mean training.epochs"),
        ({"training": 3}, "training: expected names and values, got 3"),
        ({"objective": "iwae", "free_bits": 1.0}, "free_bits: an option of the objective elbo"),
        ({"posterior": None}, "posterior: expected one of .*got None"),
        ({"latent_dim": 2, "model": {"latent_dim": "x"}}, "model.latent_dim: .*got 'x'"),
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


def test_every_way_to_say_the_same():
    expected = resolve_config(posterior="planar", num_flows=7, constraint="centred", epochs=3)
    for fields in (
        {"num_flows": 7, "constraint": "centred", "epochs": 3},
        {"posterior.num_flows": "7", "model.posterior.constraint": "centred", "epochs": "3"},
        {"posterior": {"name": "planar", "num_flows": 7, "constraint": "centred"}, "epochs": 3},
        {"model": {"posterior": {"num_flows": 7, "constraint": "centred"}}, "training.epochs": 3},
        {"posterior": PlanarPosterior, "num_flows": 7, "constraint": "centred", "epochs": 3},
        expected.model_dump(),
        expected.model_dump(mode="json"),
        {"model": expected.model, "training": expected.training},
    ):
        assert resolve_config(**fields) == Config(**fields) == expected
    assert (expected.num_flows, expected.epochs, expected.source) == (7, 3, "mnist")


def test_a_short_name_goes_to_one_family_and_the_dotted_one_says_which():
    config = resolve_config(
        posterior="iaf", prior="flow", hidden_dims="9,8", num_flows=2,
        **{"prior.num_flows": 5, "posterior.hidden_dims": (4,), "decoder_hidden_dims": [3]},
    )  # fmt: skip
    assert config.model.network.hidden_dims == (9, 8)
    assert config.model.network.decoder_hidden_dims == (3,)
    assert config.model.posterior == Part(name="iaf", num_flows=2, hidden_dims=(4,), amortized=True)
    assert config.model.prior == Part(name="flow", num_flows=5, hidden_dims=(128,))
    model = flowvae.build_vae(config, (5,))
    widths = [layer.out_features for layer in model.decoder.modules() if hasattr(layer, "weight")]
    assert widths == [3, 5]


def test_a_new_family_keeps_the_options_it_has():
    base = resolve_config(preset="planar", amortized=False)
    assert base.replace(posterior="radial").model.posterior == Part(
        name="radial", num_flows=16, amortized=False
    )
    assert base.replace(posterior="gaussian").model.posterior == Part(name="gaussian")
    with pytest.raises(UserError, match="constraint: an option of the posterior planar"):
        base.replace(posterior="radial", constraint="paper")


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_option_has_a_description_and_its_default_is_in_range(kind):
    for name in FAMILIES[kind]:
        options = options_of(kind, name)
        options()
        for option, field in options.model_fields.items():
            assert field.description, f"{kind} {name}: {option}"
            assert not option.startswith("_")


class Tilted(PlanarPosterior):
    """A posterior with an option of its own.

    Args:
        tilt: how much the draws are
            turned.
    """

    def __init__(
        self,
        in_features: int,
        latent_dim: int,
        tilt: Annotated[float, Field(gt=0)] = 0.5,
        **others,
    ) -> None:
        super().__init__(in_features, latent_dim, **others)
        self.tilt = tilt


def test_a_class_of_ones_own_brings_options():
    """Those of its base class, too, where it takes ``**others``."""
    config = Config(posterior=Tilted, tilt="0.25", num_flows=1)
    assert config.model.posterior.options() == {
        "tilt": 0.25, "num_flows": 1, "constraint": "paper", "amortized": True,
    }  # fmt: skip
    assert flowvae.build_vae(config, (5,)).posterior_head.tilt == 0.25
    assert resolve_config(**config.model_dump()) == config
    field = options_of("posterior", config.model.posterior.name).model_fields["tilt"]
    assert field.description == "How much the draws are turned."
    with pytest.raises(UserError, match=r"posterior.tilt: .*greater than 0, got -1"):
        config.replace(tilt=-1)
    with pytest.raises(UserError, match="posterior: expected a torch.nn.Module .*, got Path"):
        resolve_config(posterior=Path)


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

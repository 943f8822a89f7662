"""Where a value belongs: short names, dotted names, layers."""

from __future__ import annotations

import pytest

import flowvae
from flowvae import Config, UserError
from flowvae.config import Part, resolve_config
from flowvae.posteriors import PlanarPosterior


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_dim": 0}, "latent_dim: input should be greater than or equal to 1, got 0"),
        ({"num_flows": -1}, r"num_flows: .*greater than or equal to 0, got -1"),
        ({"constraint": "x"}, "constraint: input should be 'paper' or 'centred', got 'x'"),
        ({"flows": 3}, r"flows: no such field; did you mean num_flows"),
        (
            {"preset": "finest"},
            "preset: expected one of original, gaussian, planar, best, quick, got 'finest'",
        ),
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
        name="radial", num_flows=16, amortized=False, standardized=True
    )
    assert base.replace(posterior="gaussian").model.posterior == Part(name="gaussian")
    with pytest.raises(UserError, match="constraint: an option of the posterior planar"):
        base.replace(posterior="radial", constraint="paper")

"""The presets."""

from __future__ import annotations

from flowvae import PRESETS, Config, preset
from flowvae.config import Part


def test_original_is_the_tutorial():
    config = preset("original")
    assert config == Config()
    assert (config.hidden_dims, config.latent_dim, config.num_flows) == ((500,), 2, 3)
    assert (config.learning_rate, config.weight_decay) == (1e-3, 1e-5)
    assert (config.epochs, config.batch_size) == (100, 100)
    assert (config.constraint, config.binarization) == ("paper", "none")


def test_the_other_presets():
    gaussian, planar = preset("gaussian"), preset("planar")
    assert gaussian.model.posterior == Part(name="gaussian")
    assert (planar.num_flows, planar.constraint, planar.bound) == (16, "centred", 1.0)
    # They differ in the posterior alone, so that the difference is what the flows add.
    assert planar.training == gaussian.training != preset("original").training
    assert planar.model.network == gaussian.model.network
    assert planar.hidden_dims == preset("original").hidden_dims
    assert set(PRESETS) == {"original", "gaussian", "planar", "best", "quick"}
    assert preset("best").model == preset("quick").model


def test_what_a_run_wrote_does_not_follow_the_preset_of_today():
    written = preset("planar").model_dump(mode="json")
    del written["training"]["averaging"], written["model"]["posterior"]["bound"]
    read = Config(**written)
    assert (read.preset, read.averaging, read.bound) == ("planar", 0.0, None)
    assert read.learning_rate == 0.002
    assert Config(preset="planar").averaging > 0

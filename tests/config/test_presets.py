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
    assert preset("gaussian").model.posterior == Part(name="gaussian")
    assert (preset("planar").num_flows, preset("planar").constraint) == (16, "centred")
    assert set(PRESETS) == {"original", "gaussian", "planar"}

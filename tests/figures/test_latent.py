"""Latent space."""

from __future__ import annotations

import numpy as np

from flowvae.figures import latent_scatter, save_figure


def test_many_classes_and_none(tmp_path):
    z = np.random.default_rng(0).normal(size=(400, 2))
    for labels in (None, np.arange(400), np.arange(400) % 25, np.zeros(400, int)):
        assert save_figure(latent_scatter(z, labels), tmp_path / "a.png").stat().st_size > 1000

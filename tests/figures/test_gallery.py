"""All pictures of a run."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Dataset
from flowvae.figures import image_grid, save_figure
from flowvae.runs import Run


@pytest.mark.parametrize(
    ("shape", "D", "K", "expected"),
    [
        ((6, 5), 2, 3, {"latent_grid", "posterior", "reconstructions", "samples"}),
        ((6, 5), 2, 0, {"latent_grid", "posterior", "reconstructions", "samples"}),
        ((3, 8, 6), 2, 20, {"latent_grid", "posterior", "reconstructions", "samples"}),
        ((8, 6, 3), 5, 2, {"reconstructions", "samples"}),
        ((1, 4, 4), 1, 2, {"reconstructions", "samples"}),
        ((12,), 2, 1, {"posterior"}),
    ],
)
def test_all_pictures(shape, D, K, expected, tmp_path):
    rng = np.random.default_rng(0)
    data = Dataset.from_arrays(
        rng.random((5, *shape)), rng.random((30, *shape)), None, rng.integers(0, 12, 30)
    )
    model = flowvae.build_vae(resolve_config(latent_dim=D, num_flows=K, hidden_dims=(8,)), shape)
    run = Run(tmp_path, resolve_config(latent_dim=D), model, data)
    files = flowvae.draw_figures(run)
    assert {path.stem for path in files} == expected | {"latent_space"}
    for path in files:
        pixels = matplotlib.image.imread(path)
        assert min(pixels.shape[:2]) > 300
        assert pixels[..., :3].std() > 0.01, f"{path.name} is blank"


def test_one_epoch_has_learning_curves_too(run):
    assert (run.path / "figures" / "learning_curves.png").exists()


def test_a_single_image(tmp_path):
    assert save_figure(image_grid(np.zeros((1, 3, 4))), tmp_path / "a.png").exists()

"""Pictures are drawn for every shape of data and latent space, and show what they claim."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
import torch

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Dataset
from flowvae.figures import image_grid, latent_scatter, posterior_panels, save_figure
from flowvae.figures.images import _channels_last, _tile
from flowvae.figures.posterior import _mesh_density, _true_posterior
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


def test_tiles_lie_in_order():
    images = np.arange(6)[:, None, None] * np.ones((6, 2, 3))
    tiled = _tile(images, 2, 3)
    assert tiled[::2, ::3].tolist() == [[0, 1, 2], [3, 4, 5]]
    colour = np.zeros((2, 3, 7, 9))
    assert _channels_last(colour).shape == (2, 7, 9, 3)
    assert _channels_last(np.zeros((2, 7, 9, 1))).shape == (2, 7, 9)


def test_the_true_posterior_is_where_importance_sampling_puts_it(run):
    """Its log p(x) agrees with 100,000 samples; its window holds the mass of q."""
    x = run.dataset.test.values(slice(3))
    for datum in x.split(1):
        q = run.model.posterior(datum)
        mesh = _mesh_density(q)
        truth = _true_posterior(run.model, datum, mesh)
        with torch.no_grad():
            bound = run.model.iw_bound(datum, 100_000, torch.Generator().manual_seed(0)).item()
        assert truth.log_prob == pytest.approx(bound, abs=0.04)
        z = q.rsample((1000,), torch.Generator().manual_seed(0))
        inside = ((z > truth.z.amin((0, 1))) & (z < truth.z.amax((0, 1)))).all(-1).float().mean()
        assert inside > 0.95


def test_many_classes_and_none(tmp_path):
    z = np.random.default_rng(0).normal(size=(400, 2))
    for labels in (None, np.arange(400), np.arange(400) % 25, np.zeros(400, int)):
        assert save_figure(latent_scatter(z, labels), tmp_path / "a.png").stat().st_size > 1000


def test_a_single_image(tmp_path):
    assert save_figure(image_grid(np.zeros((1, 3, 4))), tmp_path / "a.png").exists()


def test_posterior_panels_need_two_dimensions():
    model = flowvae.build_vae(resolve_config(latent_dim=3), (4,))
    with pytest.raises(ValueError, match="expected a flow posterior with D = 2"):
        posterior_panels(model, torch.rand(1, 4))

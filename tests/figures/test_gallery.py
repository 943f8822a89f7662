"""All pictures of a run."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Dataset
from flowvae.figures import image_grid, picture_names, save_figure
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


def test_the_names_are_those_of_the_files(run):
    files = {path.stem for path in flowvae.draw_figures(run)}
    assert set(picture_names(run)) == files
    for name in picture_names(run):
        assert isinstance(run.figure(name), Figure)


@pytest.mark.parametrize(
    ("name", "shape", "options", "complaint"),
    [
        ("nosuch", (6, 5), {}, "expected one of latent_space, reconstructions, samples, "),
        ("learning_curves", (6, 5), {}, "learning_curves needs a finished epoch, got none"),
        ("samples", (7,), {}, r"samples needs images, got data of shape \(7,\)"),
        ("reconstructions", (2, 3, 4), {}, r"needs images, got data of shape \(2, 3, 4\)"),
        ("latent_grid", (6, 5), {"latent_dim": 3}, "needs two latent dimensions, got D = 3"),
        ("posterior", (6, 5), {"latent_dim": 1}, "needs two latent dimensions, got D = 1"),
        ("posterior", (6, 5), {"posterior": "gaussian"}, "needs a flow, got a DiagonalGaussian"),
    ],
)
def test_a_picture_that_there_is_not_is_one_line(name, shape, options, complaint, tmp_path):
    config = resolve_config(hidden_dims=(4,), **options)
    data = Dataset.from_arrays(np.zeros((4, *shape)), np.zeros((4, *shape)))
    run = Run(tmp_path, config, flowvae.build_vae(config, shape), data)
    with pytest.raises(flowvae.UserError, match=complaint) as error:
        run.figure(name)
    assert all(there in str(error.value) for there in picture_names(run))
    assert list(tmp_path.iterdir()) == []

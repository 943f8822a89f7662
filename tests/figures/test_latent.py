"""Latent space."""

from __future__ import annotations

import numpy as np

from flowvae.figures import latent_scatter, save_figure
from flowvae.figures.images import image_rows


def test_many_classes_and_none(tmp_path):
    z = np.random.default_rng(0).normal(size=(400, 2))
    for labels in (None, np.arange(400), np.arange(400) % 25, np.zeros(400, int)):
        assert save_figure(latent_scatter(z, labels), tmp_path / "a.png").stat().st_size > 1000


def test_points_that_have_no_principal_components_are_shown_along_axes():
    one = np.array([[1.0, 2.0, 3.0]])
    for z in (one, np.repeat(one, 4, 0)):
        axes = latent_scatter(z).axes[0]
        np.testing.assert_array_equal(axes.collections[0].get_offsets(), z[:, :2])
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("z₁", "z₂")
    two = latent_scatter(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 5.0]])).axes[0]
    assert two.get_xlabel() == "principal component 1 (100% of variance)"


def test_names_are_shown_as_they_are_and_labels_that_are_not_known_as_such(tmp_path):
    z, labels = np.random.default_rng(0).normal(size=(60, 2)), np.repeat([-1, 0, 1], 20)
    figure = latent_scatter(z, labels, ["$1_$2", "cat"])
    assert {text.get_text() for text in figure.axes[0].texts} == {"unknown", r"\$1_\$2", "cat"}
    save_figure(figure, tmp_path / "a.png")  # no formula
    quantities = latent_scatter(z, labels - 0.5).axes[0]
    assert {text.get_text() for text in quantities.texts} == {"-1.5", "-0.5", "0.5"}
    rows = image_rows(np.zeros((1, 2, 6, 6)), ["$1_$2"], ["a", "$1_$2"], "$1_$2", "t")
    save_figure(rows, tmp_path / "b.png")

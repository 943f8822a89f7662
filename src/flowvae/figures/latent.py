"""Where the data lies in latent space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure

from flowvae.figures.style import BLUE, class_colors, new_figure, plain

__all__ = ["latent_scatter"]

_MOST_CLASSES = 30  # beyond that labels are hardly classes


def latent_scatter(
    z: np.ndarray, labels: np.ndarray | None = None, names: Sequence[str] | None = None
) -> Figure:
    """One draw z ~ q(z|x) per datum, (N, D), coloured by class where labels (N,) are given.

    D = 1 is spread over the height at random; D > 2 is shown in its first two principal components,
    or along its first two axes where all points are one.
    ``names`` are those of the classes 0, 1, …, if they have any.
    """
    points, axes_names = _to_plane(z)
    figure = new_figure(7.5, 7)
    axes = figure.subplots()
    classes = [] if labels is None else list(np.unique(labels))
    if labels is not None and 1 < len(classes) <= _MOST_CLASSES:
        for value, color in zip(classes, class_colors(len(classes)), strict=True):
            chosen = points[labels == value]
            name = str(value) if names is None else names[int(value)]
            if value < 0 and labels.dtype.kind != "f":  # a quantity may be negative
                name = "unknown"
            name = plain(name)
            axes.scatter(*chosen.T, s=4, color=color, alpha=0.6, linewidths=0, label=name)
            # The class's own name on the spot: colour alone does not carry the meaning.
            x, y = np.median(chosen, axis=0)
            text = axes.text(x, y, name, color=color, fontsize=15, weight="bold", ha="center")
            text.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])
        axes.legend(title="class", markerscale=3, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axes.scatter(*points.T, s=4, color=BLUE, alpha=0.5, linewidths=0)
    axes.set(
        title="Test data in latent space, z ~ q(z|x)", xlabel=axes_names[0], ylabel=axes_names[1]
    )
    if z.shape[1] > 1:
        axes.set_aspect("equal", adjustable="datalim")
    return figure


def _to_plane(z: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    if z.shape[1] == 2:
        return z, ("z₁", "z₂")
    if z.shape[1] == 1:
        spread = np.random.default_rng(0).uniform(size=len(z))
        return np.column_stack([z[:, 0], spread]), ("z", "spread at random, without meaning")
    centred = z - z.mean(0)
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    if not scales.any():  # one datum, for instance
        return z[:, :2], ("z₁", "z₂")
    share = scales**2 / (scales**2).sum()
    names = tuple(f"principal component {k + 1} ({share[k]:.0%} of variance)" for k in range(2))
    return centred @ axes[:2].T, (names[0], names[1])

"""Pictures of walks through latent space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowvae.data.columns import Column
from flowvae.figures.images import image_rows, is_image
from flowvae.figures.style import class_colors, new_figure

__all__ = ["interpolation_figure", "traversal_figure", "value_names"]

_MOST_LINES = 8


def traversal_figure(
    values: np.ndarray,
    offsets: np.ndarray,
    names: Sequence[str],
    columns: Sequence[Column] | None = None,
) -> Figure:
    """Decoder means (n, steps, *data_shape) along n directions, at offsets (steps,).

    Images are shown a row a direction. Of other data each direction has a panel with the values
    that move most along it; those of a table are standardised numbers and probabilities.
    """
    title, unit = "Decoder means along directions of latent space", "offset in deviations"
    if is_image(values.shape[2:]):
        return image_rows(values, names, [f"{o:.3g}" for o in offsets], title, unit)
    wide = min(len(names), 3)
    rows = -(-len(names) // wide)
    figure = new_figure(4.6 * wide, 3.2 * rows + 0.4)
    panels = list(figure.subplots(rows, wide, squeeze=False).flat)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    for panel, some, name in zip(panels, values, names, strict=False):
        _lines(panel, offsets, some.reshape(len(offsets), -1), columns)
        panel.set(title=name, xlabel=unit)
    figure.suptitle(title, fontsize=10)
    return figure


def interpolation_figure(
    values: np.ndarray,
    t: np.ndarray,
    ends: np.ndarray,
    columns: Sequence[Column] | None = None,
) -> Figure:
    """Decoder means (steps, *data_shape) at t from 0 to 1, and the data (2, *data_shape) there.

    Images stand in a row between the two data. Of other data the values that move most are drawn
    against t, with those of the data as points.
    """
    title = "Decoder means on the way from one datum to another"
    if is_image(values.shape[1:]):
        row = np.concatenate([ends[:1], values, ends[1:]])
        names = ["x", *(f"{each:.2f}" for each in t), "x"]
        return image_rows(row[None], [""], names, title, "t")
    figure = new_figure(7, 4.4)
    panel = figure.subplots()
    _lines(panel, t, values.reshape(len(t), -1), columns, ends.reshape(2, -1))
    panel.set(title=title, xlabel="t (points: the data)")
    return figure


def _lines(
    panel: Axes,
    places: np.ndarray,
    values: np.ndarray,
    columns: Sequence[Column] | None,
    ends: np.ndarray | None = None,
) -> None:
    """The values (steps, P) that move most, a line each."""
    names = value_names(values.shape[1], columns)
    moved = np.ptp(values, axis=0)
    chosen = np.sort(np.argsort(-moved, kind="stable")[:_MOST_LINES])
    for place, color in zip(chosen, class_colors(len(chosen)), strict=True):
        panel.plot(places, values[:, place], color=color, label=names[place])
        if ends is not None:
            panel.plot(places[[0, -1]], ends[:, place], "o", color=color, markersize=5)
    left = len(names) - len(chosen)
    title = f"and {left} that move less" if left else None
    # A dollar sign in a column's name starts no formula.
    legend = panel.legend(title=title, fontsize=7, title_fontsize=7, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    panel.set_ylabel("mean of p(x|z)" + ("" if columns is None else ", standardised"))
    panel.spines[["top", "right"]].set_visible(False)


def value_names(P: int, columns: Sequence[Column] | None) -> list[str]:
    """What each of the P values is: of categories their probabilities."""
    if columns is None:
        return [f"value {p}" for p in range(P)]
    names: list[str] = []
    for column in columns:
        if column.kind == "numeric":
            names.append(column.name)
        else:
            shown = column.categories[1:] if column.kind == "binary" else column.categories
            names += [f"{column.name} = {category}" for category in shown]
    return names

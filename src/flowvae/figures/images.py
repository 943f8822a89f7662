"""Pictures made of the model's own images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from flowvae.data.conditions import encode_condition
from flowvae.figures.style import BLUE, new_figure, plain
from flowvae.outputs import condition_title, decoded_means
from flowvae.vae import VAE

_LONGEST = 8  # a side of a picture, in lengths of the other

__all__ = [
    "image_fillings",
    "image_grid",
    "image_pairs",
    "image_rows",
    "is_image",
    "latent_grid",
    "prior_quantiles",
    "visible",
]


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether data of this shape can be shown: (H, W), (H, W, C) or (C, H, W), C = 1 or 3.

    What is far longer than wide is no picture but a series.

    Examples:
        >>> is_image((28, 28)), is_image((3, 32, 32)), is_image((500, 1)), is_image((7,))
        (True, True, False, False)
    """
    if len(shape) == 3 and shape[-1] in (1, 3):
        height, width = shape[:2]
    elif len(shape) == 3 and shape[0] in (1, 3):
        height, width = shape[1:]
    elif len(shape) == 2:
        height, width = shape
    else:
        return False
    return max(height, width) <= _LONGEST * min(height, width)


def image_grid(
    images: np.ndarray, title: str = "Decoder means at z ~ p(z)", columns: int | None = None
) -> Figure:
    """Images (n, *shape) in a grid, row by row; about as many ``columns`` as rows if not given."""
    images = _channels_last(images)
    n = len(images)
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    padded = np.concatenate([images, np.ones((rows * columns - n, *images.shape[1:]))])
    height, width = images.shape[1:3]
    figure = new_figure(6, 6 * rows * height / (columns * width) + 0.4)
    _show(figure.subplots(), _tile(padded, rows, columns))
    figure.suptitle(plain(title), fontsize=10)
    return figure


def image_pairs(
    pair: tuple[np.ndarray, np.ndarray],
    columns: int = 8,
    title: str = "Test data (above) and reconstructions at z ~ q(z|x) (below)",
) -> Figure:
    """Originals, each over its reconstruction; both (n, *shape)."""
    original, reconstruction = (_channels_last(images) for images in pair)
    n = len(original)
    columns = min(columns, n)
    blocks = math.ceil(n / columns)
    height, width = original.shape[1:3]
    figure = new_figure(8, blocks * (16 * height / (columns * width) + 0.15) + 0.4)
    for block, axes in enumerate(figure.subplots(blocks, 1, squeeze=False).flat):
        part = slice(block * columns, (block + 1) * columns)
        rows = np.concatenate([_pad(original[part], columns), _pad(reconstruction[part], columns)])
        _show(axes, _tile(rows, 2, columns))
    if np.isnan(original).any():
        title += "; missing values in blue"
    figure.suptitle(plain(title), fontsize=10)
    return figure


def image_fillings(parts: Sequence[np.ndarray], columns: int = 8) -> Figure:
    """Images with gaps, NaN, shown in blue; below each what fills them in, and draws.

    Args:
        parts: images (n, *shape): those with gaps, means, and any number of draws.
        columns: how many images in a row.
    """
    images = [_channels_last(each) for each in parts]
    n, height, width = images[0].shape[:3]
    columns = min(columns, n)
    blocks = math.ceil(n / columns)
    tall = len(images) * 8 * height / (columns * width) + 0.15
    figure = new_figure(8, blocks * tall + 0.4)
    for block, axes in enumerate(figure.subplots(blocks, 1, squeeze=False).flat):
        part = slice(block * columns, (block + 1) * columns)
        rows = np.concatenate([_pad(each[part], columns) for each in images])
        _show(axes, _tile(rows, len(images), columns))
    below = "means" if len(images) == 2 else "means and draws"
    figure.suptitle(f"What is missing (blue), and {below} of p(x_mis | x_obs)", fontsize=10)
    return figure


def image_rows(
    images: np.ndarray,
    row_names: Sequence[str],
    column_names: Sequence[str],
    title: str,
    label: str,
) -> Figure:
    """Images (rows, columns, *shape) in a table whose rows and columns have names.

    ``label`` says what the names of the columns are.
    """
    rows, columns = images.shape[:2]
    flat = _channels_last(images.reshape(rows * columns, *images.shape[2:]))
    # A white line between neighbours, whose backgrounds differ.
    flat = np.pad(flat, ((0, 0), (0, 1), (0, 1), *[(0, 0)] * (flat.ndim - 3)), constant_values=1)
    height, width = flat.shape[1:3]
    inches = min(1.0, 14 / columns)
    figure = new_figure(inches * columns + 1.2, inches * rows * height / width + 0.9)
    axes = figure.subplots()
    _show(axes, _tile(flat, rows, columns))
    axes.set_axis_on()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    # Where there are many columns not each can be named.
    every = range(0, columns, -(-columns // 16))
    places = [(k + 0.5) * width - 0.5 for k in every]
    axes.set_xticks(places, [plain(column_names[k]) for k in every], fontsize=8)
    named = [plain(name) for name in row_names]
    axes.set_yticks((np.arange(rows) + 0.5) * height - 0.5, named, fontsize=8)
    axes.set_xlabel(label, fontsize=9)
    axes.set_title(plain(title), fontsize=10)
    return figure


@torch.no_grad()
def latent_grid(model: VAE, points: int = 20, *, condition: Any = None) -> Figure:
    """Decoder means over a grid of z in quantiles of the prior N(0, I), D = 2.

    Of a conditional model all of them are under one ``condition``, see :meth:`VAE.rows`.
    """
    p = next(model.parameters())
    z = prior_quantiles(points).to(p)
    axis = z[0, :, 0]
    given, under = None, ""
    if model.condition is not None or condition is not None:
        given = encode_condition(model.condition, condition, 1).to(p)
        under = condition_title(model.condition, given)
    images = decoded_means(model, z, given).reshape(-1, *model.data_shape).numpy()
    images = _channels_last(images)
    height, width = images.shape[1:3]
    figure = new_figure(7.5, 7.5 * height / width + 0.3)
    axes = figure.subplots()
    _show(axes, _tile(images, points, points))
    ticks = np.linspace(0, points - 1, 5).round().astype(int)
    labels = [f"{axis[k]:.2f}" for k in ticks]
    axes.set_axis_on()
    axes.set_xticks((ticks + 0.5) * width - 0.5, labels)
    axes.set_yticks((points - ticks - 0.5) * height - 0.5, labels)
    axes.set(
        title=f"Decoder means over z in prior quantiles{under}",
        xlabel="z₁ (at equal steps of prior probability)",
        ylabel="z₂ (at equal steps of prior probability)",
    )
    return figure


def prior_quantiles(points: int) -> Tensor:
    """A grid of z in quantiles of N(0, I): (points, points, 2), float64; rows from the top.

    z₁ grows to the right, z₂ upwards.
    """
    quantiles = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    axis = torch.special.ndtri(quantiles)
    across = axis.expand(points, points)
    return torch.stack([across, axis.flip(0)[:, None].expand(points, points)], -1)


def _channels_last(images: np.ndarray) -> np.ndarray:
    """(n, H, W) or (n, H, W, 3)."""
    if images.ndim == 4 and images.shape[-1] not in (1, 3):
        images = np.moveaxis(images, 1, -1)
    return images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images


def _pad(images: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([images, np.ones((count - len(images), *images.shape[1:]))])


def _tile(images: np.ndarray, rows: int, columns: int) -> np.ndarray:
    height, width = images.shape[1:3]
    grid = images.reshape(rows, columns, *images.shape[1:]).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, *images.shape[3:])


def _show(axes: Axes, image: np.ndarray) -> None:
    shown = visible(image).clip(0, 1)  # of colours matplotlib would say that it does so
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()


def visible(image: np.ndarray) -> np.ndarray:
    """An image (H, W) or (H, W, 3) whose missing pixels, NaN, are blue."""
    missing = np.isnan(image)
    if not missing.any():
        return image
    colours = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
    missing = missing if image.ndim == 3 else missing[..., None]
    return np.where(missing, to_rgb(BLUE), colours)

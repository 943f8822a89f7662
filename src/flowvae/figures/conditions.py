"""Pictures of a model whose condition is one of some classes: a class beside another."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowvae.data.conditions import class_rows, classes_of
from flowvae.errors import UserError
from flowvae.figures.images import _channels_last, _show, _tile, image_rows, prior_quantiles
from flowvae.figures.style import new_figure, plain
from flowvae.outputs import decoded_means
from flowvae.vae import VAE

__all__ = ["class_grids", "class_samples", "styles"]

_MOST_CLASSES = 20  # beyond that a picture shows the first


@torch.no_grad()
def class_samples(model: VAE, count: int = 10, seed: int = 0) -> Figure:
    """Decoder means at z ~ p(z|y): a row for each class y, a column for the noise z is made of.

    Where p(z) does not depend on y a column has one z.
    """
    names, every = _classes(model)
    device = next(model.parameters()).device
    found = []
    for each in every:
        generator = torch.Generator(device).manual_seed(seed)
        z, given = model.draw_prior(count, generator, each[None])
        found.append(decoded_means(model, z, given))
    images = torch.stack(found).reshape(len(found), count, *model.data_shape).numpy()
    return image_rows(
        images, names, [str(k + 1) for k in range(count)], "Decoder means at z ~ p(z|y)", "draw"
    )


@torch.no_grad()
def styles(model: VAE, rows: Tensor, generator: torch.Generator | None = None) -> Figure:
    """Data rewritten as each class: decoder means at one z ~ q(z|x, y) and every other class.

    Args:
        model: whose condition is one of some classes.
        rows: values and condition, (n, P + C); each is a row, with the datum in its first column.
        generator: of the draws of z.
    """
    names, every = _classes(model)
    values = model.parts(rows)[0].cpu()
    z = model.posterior(rows).rsample((), generator)
    written = [decoded_means(model, z, each.to(z)) for each in every]
    images = torch.stack([values.to(written[0]), *written], 1)
    return image_rows(
        images.reshape(*images.shape[:2], *model.data_shape).numpy(),
        ["" for _ in rows],
        ["x", *names],
        "Test data, and rewritten as each class: one z ~ q(z|x, y) a row",
        "class",
    )


@torch.no_grad()
def class_grids(model: VAE, points: int = 10) -> Figure:
    """For each class the decoder means over a grid of z in quantiles of N(0, I), D = 2.

    z₁ grows to the right and z₂ upwards, each at equal steps of prior probability.
    """
    names, every = _classes(model)
    p = next(model.parameters())
    z = prior_quantiles(points).to(p)
    columns = math.ceil(math.sqrt(len(names)))
    rows = math.ceil(len(names) / columns)
    shape = _channels_last(np.zeros((1, *model.data_shape))).shape
    width = 10 / columns
    figure = new_figure(10, rows * (width * shape[1] / shape[2] + 0.3) + 0.4)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels:
        panel.set_axis_off()
    for panel, name, each in zip(panels, names, every, strict=False):
        images = decoded_means(model, z, each.to(p)).reshape(-1, *model.data_shape).numpy()
        _show(panel, _tile(_channels_last(images), points, points))
        panel.set_title(plain(name), fontsize=9)
    figure.suptitle("Decoder means over z in prior quantiles, for each class", fontsize=10)
    return figure


def _classes(model: VAE) -> tuple[list[str], Tensor]:
    """Names and conditions (K, C) of the classes that a picture has room for."""
    classes = classes_of(model.condition)
    if classes is None:
        raise UserError("condition: expected a model whose condition is one of some classes")
    return list(classes[:_MOST_CLASSES]), class_rows(model.condition or ())[:_MOST_CLASSES]

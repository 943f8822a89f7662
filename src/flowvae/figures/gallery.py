"""All pictures of a run: their names, what each needs of the run, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from flowvae.data.conditions import classes_of
from flowvae.distributions import FlowDistribution
from flowvae.errors import UserError
from flowvae.evaluation import encode_split
from flowvae.figures.conditions import class_grids, class_samples, styles
from flowvae.figures.curves import learning_curves
from flowvae.figures.images import image_grid, image_pairs, is_image, latent_grid
from flowvae.figures.latent import latent_scatter
from flowvae.figures.posterior import posterior_panels
from flowvae.figures.style import save_figure
from flowvae.outputs import given_in_turn
from flowvae.runs import Run

__all__ = ["DRAWN", "draw_picture", "picture_names", "save_all"]

_MOST_POINTS = 20_000
_DECODED = "Decoder means at z ~ p(z|y)"


class _Picture(NamedTuple):
    draw: Callable[[Run], Figure]
    lacks: Callable[[Run], str | None]  # what the run would have to be, and is not


def picture_names(run: Run) -> list[str]:
    """The pictures that the run's data shape and latent dimension allow."""
    return [name for name, picture in _PICTURES.items() if picture.lacks(run) is None]


@torch.no_grad()
def draw_picture(run: Run, name: str) -> Figure:
    """Draw one of them.

    Args:
        run: the run.
        name: one of :func:`picture_names`.

    Raises:
        UserError: no picture has this name, or this run does not allow it.
    """
    if name not in _PICTURES:
        raise UserError(f"figure: expected one of {', '.join(picture_names(run))}; got {name!r}")
    picture = _PICTURES[name]
    if (lack := picture.lacks(run)) is not None:
        raise UserError(f"figure: {name} {lack}; this run has {', '.join(picture_names(run))}")
    training = run.model.training
    try:
        run.model.eval()
        return picture.draw(run)
    finally:
        run.model.train(training)


def save_all(run: Run) -> list[Path]:
    """Draw what the run's data shape and latent dimension allow, into ``run.figures``."""
    return [
        save_figure(draw_picture(run, name), run.figures / f"{name}.png")
        for name in picture_names(run)
    ]


def _learning_curves(run: Run) -> Figure:
    return learning_curves(run.metrics, pseudo_likelihood=run.pseudo_likelihood)


def _latent_space(run: Run) -> Figure:
    scattered = run.dataset.test.at_most(_MOST_POINTS)
    return latent_scatter(
        encode_split(run.model, scattered, run.generator(0))[0].numpy(),
        None if scattered.labels is None else scattered.labels.numpy(),
        run.dataset.label_names,
    )


def _reconstructions(run: Run) -> Figure:
    x = _some_data(run)
    reconstructed = run.model.reconstruct(x, run.generator(0))
    return image_pairs((_as_images(run, run.model.parts(x)[0]), _as_images(run, reconstructed)))


def _samples(run: Run) -> Figure:
    if classes_of(run.model.condition) is not None:
        return class_samples(run.model)
    given = given_in_turn(run, 100)
    x = _as_images(run, run.model.sample(100, run.generator(0), condition=given))
    return image_grid(x) if given is None else image_grid(x, f"{_DECODED}, conditions of test data")


def _styles(run: Run) -> Figure:
    return styles(run.model, _some_data(run)[:10], run.generator(0))


def _latent_grid(run: Run) -> Figure:
    if classes_of(run.model.condition) is not None:
        return class_grids(run.model)
    return latent_grid(run.model, condition=given_in_turn(run, 1))


def _posterior(run: Run) -> Figure:
    return posterior_panels(run.model, _some_data(run)[:4])


def _nothing(run: Run) -> str | None:
    del run
    return None


def _lacks_epochs(run: Run) -> str | None:
    return None if run.metrics else "needs a finished epoch, got none"


def _lacks_images(run: Run) -> str | None:
    shape = run.model.data_shape
    return None if is_image(shape) else f"needs images, got data of shape {shape}"


def _lacks_classes(run: Run) -> str | None:
    if (lack := _lacks_images(run)) is not None:
        return lack
    given = classes_of(run.model.condition) is not None
    return None if given else "needs a run whose condition is one of some classes"


def _lacks_image_plane(run: Run) -> str | None:
    return _lacks_images(run) or _lacks_plane(run)


def _lacks_plane(run: Run) -> str | None:
    D = run.model.latent_dim
    return None if D == 2 else f"needs two latent dimensions, got D = {D}"


def _lacks_flow(run: Run) -> str | None:
    if (lack := _lacks_plane(run)) is not None:
        return lack
    q = run.model.posterior(_some_data(run)[:1])
    return None if isinstance(q, FlowDistribution) else f"needs a flow, got a {type(q).__name__}"


_PICTURES = {
    "learning_curves": _Picture(_learning_curves, _lacks_epochs),
    "latent_space": _Picture(_latent_space, _nothing),
    "reconstructions": _Picture(_reconstructions, _lacks_images),
    "samples": _Picture(_samples, _lacks_images),
    "styles": _Picture(_styles, _lacks_classes),
    "latent_grid": _Picture(_latent_grid, _lacks_image_plane),
    "posterior": _Picture(_posterior, _lacks_flow),
}

# What a run's figures/ may hold, of any run; the last is drawn by ``flowvae evaluate --full``.
DRAWN = (*_PICTURES, "evaluation")


def _some_data(run: Run) -> torch.Tensor:
    """At most 16 test data, rows (n, P + C), where the model is."""
    x = run.dataset.test.at_most(16).rows()
    return x.to(next(run.model.parameters()).device)


def _as_images(run: Run, x: torch.Tensor) -> np.ndarray:
    return x.cpu().reshape(-1, *run.model.data_shape).numpy()

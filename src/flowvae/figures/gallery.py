"""All pictures of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure

from flowvae.data import Split
from flowvae.distributions import FlowDistribution
from flowvae.evaluation import encode_split
from flowvae.figures.curves import learning_curves
from flowvae.figures.images import image_grid, image_pairs, is_image, latent_grid
from flowvae.figures.latent import latent_scatter
from flowvae.figures.posterior import posterior_panels
from flowvae.figures.style import save_figure
from flowvae.runs import Run

__all__ = ["save_all"]


_MOST_POINTS = 20_000


def _at_most(split: Split, count: int) -> Split:
    """The split, or as many of its data, evenly over it."""
    if len(split) <= count:
        return split
    chosen = torch.linspace(0, len(split) - 1, count, dtype=torch.float64).round().long()
    labels = None if split.labels is None else split.labels[chosen]
    return Split(split.values(chosen), labels)


@torch.no_grad()
def save_all(run: Run) -> list[Path]:
    """Draw what the run's data shape and latent dimension allow, into ``run.figures``."""
    model = run.model.eval()
    device = next(model.parameters()).device
    test = run.dataset.test
    # Evenly over the split: the same number of data, but not all from its beginning.
    chosen = (
        torch.linspace(0, len(test) - 1, min(16, len(test)), dtype=torch.float64).round().long()
    )
    x = test.values(chosen).to(device)

    def generator() -> torch.Generator:
        return torch.Generator(device).manual_seed(0)

    def as_images(values: torch.Tensor):
        return values.cpu().reshape(-1, *model.data_shape).numpy()

    drawings: dict[str, Callable[[], Figure]] = {}
    if run.metrics:
        drawings["learning_curves"] = lambda: learning_curves(
            run.metrics, pseudo_likelihood=run.pseudo_likelihood
        )
    scattered = _at_most(test, _MOST_POINTS)
    drawings["latent_space"] = lambda: latent_scatter(
        encode_split(model, scattered, generator())[0].numpy(),
        None if scattered.labels is None else scattered.labels.numpy(),
        run.dataset.label_names,
    )
    if is_image(model.data_shape):
        drawings["reconstructions"] = lambda: image_pairs(
            (as_images(x), as_images(model.reconstruct(x, generator())))
        )
        drawings["samples"] = lambda: image_grid(as_images(model.sample(100, generator())))
        if model.latent_dim == 2:
            drawings["latent_grid"] = lambda: latent_grid(model)
    if model.latent_dim == 2 and isinstance(model.posterior(x[:1]), FlowDistribution):
        drawings["posterior"] = lambda: posterior_panels(model, x[:4])
    return [save_figure(draw(), run.figures / f"{name}.png") for name, draw in drawings.items()]

"""Pictures of a run. Every function gives a matplotlib ``Figure``; :func:`save_all` writes PNGs."""

import os
from importlib import import_module

try:
    import_module("matplotlib")
except ValueError:
    # It refuses a display of a name it does not know, though no display is needed.
    _name = os.environ.pop("MPLBACKEND", "")
    try:
        import_module("matplotlib")
    finally:
        os.environ["MPLBACKEND"] = _name

from flowvae.figures.curves import learning_curves
from flowvae.figures.evaluation import comparison_figure, evaluation_figure
from flowvae.figures.gallery import save_all
from flowvae.figures.images import image_grid, image_pairs, latent_grid
from flowvae.figures.latent import latent_scatter
from flowvae.figures.posterior import posterior_panels
from flowvae.figures.style import save_figure

__all__ = [
    "comparison_figure",
    "evaluation_figure",
    "image_grid",
    "image_pairs",
    "latent_grid",
    "latent_scatter",
    "learning_curves",
    "posterior_panels",
    "save_all",
    "save_figure",
]

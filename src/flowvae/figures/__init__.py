"""Pictures of a run. Every function gives a matplotlib ``Figure``; :func:`save_all` writes PNGs."""

import os
import sys
from contextlib import suppress
from importlib import import_module

if "matplotlib" not in sys.modules:
    # A display that it does not know would end the import, though no display is needed.
    _display = os.environ.pop("MPLBACKEND", "")
    _matplotlib = import_module("matplotlib")
    if _display:
        os.environ["MPLBACKEND"] = _display
        with suppress(ValueError):
            _matplotlib.rcParams["backend"] = _display

from flowvae.figures.conditions import class_grids, class_samples, styles
from flowvae.figures.curves import learning_curves
from flowvae.figures.evaluation import comparison_figure, evaluation_figure
from flowvae.figures.gallery import draw_picture, picture_names, save_all
from flowvae.figures.images import (
    image_fillings,
    image_grid,
    image_pairs,
    image_rows,
    latent_grid,
)
from flowvae.figures.latent import latent_scatter
from flowvae.figures.posterior import posterior_panels
from flowvae.figures.style import save_figure
from flowvae.figures.walks import interpolation_figure, traversal_figure

__all__ = [
    "class_grids",
    "class_samples",
    "comparison_figure",
    "draw_picture",
    "evaluation_figure",
    "image_fillings",
    "image_grid",
    "image_pairs",
    "image_rows",
    "interpolation_figure",
    "latent_grid",
    "latent_scatter",
    "learning_curves",
    "picture_names",
    "posterior_panels",
    "save_all",
    "save_figure",
    "styles",
    "traversal_figure",
]

"""What all pictures share: size, colours that colour-blind readers can tell apart, saving."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from flowvae.files import replacing

__all__ = ["BLUE", "DENSITY", "ORANGE", "class_colors", "new_figure", "plain", "save_figure"]

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe & Ito
DENSITY = "viridis"
_NOTEBOOK_DPI = 90  # a cell of a notebook is about a thousand pixels wide

# Paul Tol's "muted" scheme, with black as the tenth.
_MUTED = [
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933",
    "#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000",
]  # fmt: skip

_RC: Any = {
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


class _ShownFigure(Figure):
    """A figure that a notebook shows, as matplotlib's own is only once pyplot was imported."""

    def _repr_png_(self) -> bytes:
        shown = io.BytesIO()
        with rc_context(_RC):
            self.savefig(shown, dpi=_NOTEBOOK_DPI, format="png")
        return shown.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches, independent of pyplot and its global state."""
    return _ShownFigure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG whole or not at all."""
    with replacing(path) as temporary, rc_context(_RC):
        figure.savefig(temporary, dpi=150, format="png")
    return Path(path)


def plain(name: str) -> str:
    """A name from the data, in which a dollar sign starts no formula."""
    return name.replace("$", r"\$")


def class_colors(count: int) -> list[Any]:
    """A colour for each of ``count`` classes."""
    if count <= len(_MUTED):
        return list(_MUTED[:count])
    return [colormaps["viridis"](k / (count - 1)) for k in range(count)]

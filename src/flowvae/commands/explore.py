"""``flowvae explore``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from flowvae.commands.options import data_option, open_with, out_option, run_argument

__all__ = ["explore"]


@click.command()
@run_argument
@out_option("The HTML file.  [RUN/explore.html]")
@data_option
@click.option("--no-open", is_flag=True, help="Do not show it in a browser.")
def explore(run: Path, out: Path | None, no_open: bool, **options: Any) -> None:
    """Write a page in which the run can be explored: one HTML file, no server, no network.

    With D = 2 and a planar or Gaussian posterior: draw an image or pick a test datum, and see q
    after each flow beside the true posterior, with log p(x), ELBO and KL.
    """
    from flowvae.explorer import explore as write_page

    page = write_page(open_with(run, options), out=out, **options)
    size = page.path.stat().st_size / 1e6
    click.echo(f"Wrote {page.path} ({size:.1f} MB)")
    if no_open:
        return
    if _has_display():
        click.launch(page.path.resolve().as_uri())
    else:
        click.echo(f"Open {page.path.resolve().as_uri()} in a browser")


def _has_display() -> bool:
    """Whether a browser can be opened: without a screen, one in the terminal would take it over."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in screens)

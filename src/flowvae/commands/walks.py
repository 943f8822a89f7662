"""``flowvae traverse`` and ``flowvae interpolate``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from flowvae.commands.options import (
    data_option,
    open_with,
    out_option,
    run_argument,
    seed_option,
)
from flowvae.errors import UserError

__all__ = ["interpolate", "traverse"]

_DATUM = click.IntRange(0, 2**63 - 1)
_steps = click.option(
    "--steps", type=click.IntRange(2, 1000), default=9, help="How many z on a way.  [9]"
)


@click.command()
@run_argument
@click.option(
    "--datum", type=_DATUM, help="Start at the latent mean of this test datum.  [the prior's mean]"
)
@click.option(
    "--directions",
    default="axes",
    help="axes; principal, those of q(z|x) over the test data; or axes by number, as 0,3.  [axes]",
)
@click.option("--num", type=click.IntRange(1, 10**9), help="The first so many of them.  [all]")
@_steps
@click.option(
    "--reach", type=click.FloatRange(0, min_open=True), default=3.0, help="Deviations.  [3]"
)
@click.option(
    "--unit",
    type=click.Choice(["prior", "aggregate"]),
    default="prior",
    help="Whose deviation: the prior's, or that of q(z|x) over the test data.  [prior]",
)
@out_option("A .png or .npz file.  [RUN/traversal.png]")
@data_option
@seed_option
def traverse(
    run: Path, datum: int | None, directions: str, out: Path | None, **options: Any
) -> None:
    """Decode z along directions of latent space."""
    chosen: Any = directions
    if directions not in ("axes", "principal"):
        if re.fullmatch(r"\d{1,9}(,\d{1,9})*", directions) is None:
            raise UserError(
                "directions: expected axes, principal or numbers of axes as 0,3; got "
                f"{directions!r}"
            )
        chosen = [int(axis) for axis in directions.split(",")]

    from flowvae.traversal import traverse as run_traverse

    opened = open_with(run, options)
    out = out or opened.path / "traversal.png"
    run_traverse(opened, datum, directions=chosen, out=out, **options)
    click.echo(f"Wrote {out}")


@click.command()
@run_argument
@click.option(
    "--between",
    type=_DATUM,
    nargs=2,
    default=(0, 1),
    metavar="N M",
    help="Two test data by their numbers.  [0 1]",
)
@_steps
@click.option(
    "--path",
    type=click.Choice(["linear", "spherical"]),
    default="linear",
    help="A straight line, or an arc around 0.  [linear]",
)
@out_option("A .png or .npz file.  [RUN/interpolation.png]")
@data_option
@seed_option
def interpolate(run: Path, between: tuple[int, int], out: Path | None, **options: Any) -> None:
    """Decode z on the way from one test datum to another."""
    from flowvae.traversal import interpolate as run_interpolate

    opened = open_with(run, options)
    out = out or opened.path / "interpolation.png"
    run_interpolate(opened, *between, out=out, **options)
    click.echo(f"Wrote {out}")

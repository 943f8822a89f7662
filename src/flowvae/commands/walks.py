"""``flowvae traverse`` and ``flowvae interpolate``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from flowvae.commands.options import (
    condition_of,
    condition_option,
    data_option,
    open_with,
    out_option,
    run_argument,
    seed_option,
)
from flowvae.config.flags import ONCE
from flowvae.errors import UserError

__all__ = ["interpolate", "traverse"]

_DATUM = click.IntRange(0, 2**63 - 1)
_condition = condition_option("All is decoded under it.  [the test datum's own]")
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
@_condition
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
    run: Path,
    datum: int | None,
    directions: str,
    condition: str | None,
    out: Path | None,
    **options: Any,
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
    given = condition_of(opened, condition)
    out = out or opened.path / "traversal.png"
    run_traverse(opened, datum, directions=chosen, condition=given, out=out, **options)
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
@_condition
@click.option(
    "--to-condition",
    metavar="VALUE",
    **ONCE,
    help="What the way ends under, where it is to change the condition as well.",
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
def interpolate(
    run: Path,
    between: tuple[int, int],
    condition: str | None,
    to_condition: str | None,
    out: Path | None,
    **options: Any,
) -> None:
    """Decode z on the way from one test datum to another.

    Of a conditional run, under the condition of the first; or under --condition, or on the way from
    it to --to-condition.
    """
    if to_condition is not None and condition is None:
        raise UserError("to-condition: expected --condition beside it, what the way begins under")

    from torch import cat

    from flowvae.data.conditions import encode_condition
    from flowvae.traversal import interpolate as run_interpolate

    opened, given = open_with(run, options), None
    if condition is not None:
        columns = opened.model.condition
        ends = [condition] if to_condition is None else [condition, to_condition]
        given = cat([encode_condition(columns, condition_of(opened, t), 1) for t in ends])
    out = out or opened.path / "interpolation.png"
    run_interpolate(opened, *between, condition=given, out=out, **options)
    click.echo(f"Wrote {out}")

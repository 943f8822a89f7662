"""``flowvae impute``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flowvae.commands.options import condition_of, condition_option, open_with, run_argument

__all__ = ["impute"]


@click.command()
@run_argument
@click.option(
    "--data",
    required=True,
    help="A .csv, .parquet, .npy or .npz file whose gaps are to be filled.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="A .csv or .parquet for a table; a .npy, .npz or, of images, .png for arrays.",
)
@click.option(
    "--draws",
    type=click.IntRange(0, 10**6),
    default=0,
    help="M, imputations drawn from p(x_mis | x_obs), besides its mean.  [0]",
)
@click.option(
    "--samples", type=click.IntRange(1, 10**9), default=500, help="S, draws of z per row.  [500]"
)
@click.option(
    "--interval",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the draws that lie in intervals to be written, such as 0.9.  [none]",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Of all noise.  [0]")
@condition_option("Of a conditional run, of all rows.  [what is in the data]")
def impute(run: Path, data: str, out: Path, condition: str | None, **options: Any) -> None:
    """Fill in what is missing of all rows of a file, by a run trained with --missing model.

    A table keeps its rows, their order and its other columns. With --draws it has every row M
    times, told apart by a column "draw"; a .npz then has an array "draws" (M, N, ...).
    """
    from flowvae.imputing import impute as run_impute

    opened = open_with(run, options)
    given = condition_of(opened, condition)
    found = run_impute(opened, data, out=out, condition=given, **options)
    missing = found.missing
    gaps = sum(map(sum, missing.values())) if isinstance(missing, dict) else missing.sum()
    click.echo(f"Wrote {out}: {int(gaps)} values filled in, {len(found.effective_samples)} rows")

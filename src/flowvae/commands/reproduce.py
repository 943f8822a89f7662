"""``flowvae reproduce``."""

from __future__ import annotations

from pathlib import Path

import click

from flowvae.commands.options import stop_when_told
from flowvae.reproduction.tables import TABLES

__all__ = ["reproduce"]


@click.command()
@click.argument("name", type=click.Choice(list(TABLES)), required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The folder for NAME.json, NAME.md and the runs.  [runs/reproduce/NAME]",
)
@click.option(
    "--quick",
    is_flag=True,
    help="A few steps on a small part of the data: shows that it works, and is no result.",
)
@click.option("--row", "rows", multiple=True, help="Only this row; may be given again.  [all]")
@click.option(
    "--seeds", type=click.IntRange(1, 1000), help="Runs of each row.  [as the table says]"
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    help="Runs at once.  [as many as there are cores; 1 on a GPU]",
)
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.  [auto]")
def reproduce(
    name: str | None,
    out: Path | None,
    quick: bool,
    rows: tuple[str, ...],
    seeds: int | None,
    jobs: int | None,
    device: str,
) -> None:
    """Make a published table again: its runs, our figures beside the published ones, a page.

    Without NAME the tables are listed. What is done is not repeated, so a call that was stopped
    goes on where it was.
    """
    if name is None:
        width = max(map(len, TABLES))
        for each, table in TABLES.items():
            runs = f"{len(table.rows)} rows, {table.seeds} seeds"
            click.echo(f"{each:<{width}}  {table.title} ({runs})")
        return

    stop_when_told()

    from flowvae.evaluation import on_screen
    from flowvae.reproduction.reproduce import reproduce as run_reproduction

    found = run_reproduction(
        name,
        out=out,
        quick=quick,
        rows=rows or None,
        seeds=seeds,
        jobs=jobs,
        device=device,
        report=lambda line: click.echo(line, err=True),
    )
    click.echo(f"\n{on_screen(found.page)}")
    click.echo(f"Page: {found.folder / name}.md")

"""``flowvae push``."""

from __future__ import annotations

from pathlib import Path

import click

from flowvae.commands.options import open_with, trust_option

__all__ = ["push"]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("name", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="For you alone, where the repository is new.")
@click.option(
    "--licence", default=None, help="The licence of the weights, such as mit or cc-by-4.0.  [none]"
)
@click.option("--no-figures", is_flag=True, help="Leave out the pictures, which show test data.")
@trust_option
def push(
    run: Path, name: str, private: bool, licence: str | None, no_figures: bool, trust: bool
) -> None:
    """Put a run on the Hugging Face hub: weights, figures, and a card for people.

    Needs a login, by 'hf auth login' or the variable HF_TOKEN. What is pushed names no folder, user
    or machine; see docs/export.md.
    """
    from flowvae.hub.pushing import push as run_push

    opened = open_with(run, {"device": "cpu", "trust": trust})
    found = run_push(opened, name, private=private, licence=licence, figures=not no_figures)
    click.echo(f"Pushed to {found}")

"""``flowvae classify``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from flowvae.commands.options import data_option, open_with, run_argument

__all__ = ["classify"]


@click.command()
@run_argument
@click.option(
    "--samples",
    type=click.IntRange(1, 10**9),
    default=50,
    help="S, draws of z per datum and class.  [50]",
)
@click.option(
    "--count", type=click.IntRange(1, 10**9), help="So many test data, evenly over them.  [all]"
)
@click.option(
    "--prior",
    type=click.Choice(["frequencies", "uniform"]),
    default="frequencies",
    help="p(y): the frequencies in the training data, or 1/K.  [frequencies]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=None, help="Of the draws.  [the run's]"
)
@data_option
def classify(run: Path, samples: int, as_json: bool, **options: Any) -> None:
    """Classify the test data by Bayes' rule: p(y|x) from p(x|y) under every class.

    For a run whose condition is one of some classes, as --condition labels makes it. Where it has
    a classifier q(y|x), of the objective m2, it is scored too. Also written to
    RUN/classification.json.
    """
    from flowvae.classification import classify as run_classification

    found = run_classification(open_with(run, options), samples, progress=not as_json, **options)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(str(found))
        click.echo(f"Wrote {run / 'classification.json'}")

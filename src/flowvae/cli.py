"""The commands: thin, no logic of their own. torch is imported only when work begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flowvae import __version__
from flowvae.commands.classify import classify
from flowvae.commands.explore import explore
from flowvae.commands.export import export
from flowvae.commands.impute import impute
from flowvae.commands.options import (
    condition_of,
    condition_option,
    data_option,
    device_option,
    open_with,
    out_option,
    refine_option,
    run_argument,
    seed_option,
    trust_option,
)
from flowvae.commands.push import push
from flowvae.commands.reproduce import reproduce
from flowvae.commands.train import train
from flowvae.commands.walks import interpolate, traverse
from flowvae.config import PRESETS, resolve_config
from flowvae.config.flags import data_options
from flowvae.console import run_command
from flowvae.errors import UserError

__all__ = ["main"]


# How much of everything `evaluate --full` does; defaults are those of FullSettings, which needs
# torch to be asked.
FULL = {
    "count": "Test data for importance sampling.  [all]",
    "mixture_count": "Test data for importance sampling that looks beyond q.  [1000]",
    "quadrature_count": "Test data for quadrature, D <= 2.  [1000]",
    "ais_count": "Test data for annealed importance sampling.  [50]",
    "ais_chains": "Chains per datum.  [16]",
    "ais_temperatures": "Temperatures of a chain.  [500]",
    "ais_leapfrog": "Steps of a Hamiltonian trajectory.  [10]",
    "bdmc_count": "Simulated data, annealed from both sides.  [50]",
    "gap_count": "Test data to which q is fitted.  [100]",
    "gap_steps": "Steps of that fit.  [500]",
    "refine_count": "Test data whose q is refined.  [1000]",
    "refine_steps": "Steps of the refinement.  [6]",
    "information_count": "Test data for mutual information.  [2000]",
}


def _full_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, text in reversed(FULL.items()):
        flag = f"--{name.replace('_', '-')}"
        kind = click.IntRange(1, 10**9)
        command = click.option(flag, type=kind, default=None, help=f"With --full. {text}")(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="flowvae")
def cli() -> None:
    """Variational autoencoders whose posterior is bent by normalizing flows.

    flowvae train            trains the tutorial's model on MNIST and leaves a run folder;
    flowvae evaluate RUN     and the others work on such a folder;
    flowvae compare RUN RUN  on several.
    """


@cli.command()
@run_argument
@click.option(
    "--samples",
    type=click.IntRange(1, 10**9),
    help="S, draws of z per datum.  [the run's evaluation.samples]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=None, help="Of the draws.  [the run's]"
)
@data_option
@refine_option
@click.option(
    "--full",
    is_flag=True,
    help="Every method: importance sampling, quadrature (D <= 2), annealing and its check from "
    "both sides, the parts of the inference gap, information, active units. Goes on where an "
    "earlier call was stopped.",
)
@_full_options
def evaluate(run: Path, samples: int | None, as_json: bool, full: bool, **options: Any) -> None:
    """ELBO, its terms and the S-sample importance-weighted bound on the test data.

    Each is a mean ± standard error in nats per datum. Also written to RUN/evaluation.json; with
    --full to RUN/evaluation/full.json and full.md, and RUN/figures/evaluation.png.
    """
    given = {name: options.pop(name) for name in FULL}
    given = {name: value for name, value in given.items() if value is not None}
    if full:
        if options.pop("refine"):
            raise UserError("refine: goes without --full, which has the refined posterior anyway")
        _evaluate_full(
            run, {**given, **({"samples": samples} if samples else {})}, as_json, options
        )
        return
    if given:
        raise UserError(f"{next(iter(given)).replace('_', '-')}: goes with --full only")

    from flowvae.evaluating import evaluate as run_evaluation
    from flowvae.processes import joined
    from flowvae.progress import evaluation_text

    with joined():
        opened = open_with(run, options)
        evaluation = run_evaluation(opened, samples, progress=not as_json, **options)
    click.echo(
        json.dumps(evaluation.to_dict(), indent=2) if as_json else evaluation_text(evaluation)
    )


def _evaluate_full(
    run: Path, given: dict[str, int], as_json: bool, options: dict[str, Any]
) -> None:
    from flowvae.evaluating import evaluate_full
    from flowvae.evaluation import FullSettings, full_markdown, on_screen
    from flowvae.processes import joined

    try:
        with joined():
            opened = open_with(run, options)
            found = evaluate_full(opened, FullSettings(**given), progress=not as_json, **options)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted. Finished parts are kept in {run / 'evaluation'}", err=True)
        raise
    except ArithmeticError as error:
        raise UserError(f"evaluate: {error}") from None
    if as_json:
        click.echo(json.dumps(found.summary, indent=2))
        return
    click.echo(on_screen(full_markdown(found.summary, run.resolve().name)))
    click.echo(
        f"Report: {run / 'evaluation' / 'full.md'}\nPicture: {run / 'figures'}/evaluation.png"
    )


@cli.command()
@click.argument(
    "runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN RUN…"
)
@click.option(
    "--samples",
    type=click.IntRange(1, 10**9),
    help="S, importance samples per datum.  [the first run's]",
)
@out_option(
    "The folder for compare.json, compare.md and compare.png.  [comparison/ in the first RUN]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@device_option
@trust_option
def compare(
    runs: tuple[Path, ...],
    samples: int | None,
    out: Path | None,
    as_json: bool,
    device: str,
    trust: bool,
) -> None:
    """Compare runs on the test data they share: one table, one picture.

    Differences from the first run are paired by datum. Runs with different data, binarization
    or splits are refused.
    """
    from flowvae.evaluating import compare as run_comparison
    from flowvae.evaluation import on_screen

    opened = [open_with(run, {"device": device, "trust": trust}) for run in runs]
    out = out or opened[0].path / "comparison"
    found = run_comparison(*opened, samples=samples, out=out, progress=not as_json)
    if as_json:
        click.echo(json.dumps(found.summary, indent=2))
    else:
        click.echo(on_screen(found.to_markdown()))
        click.echo(f"Wrote {out}/compare.json, compare.md and compare.png")


@cli.command()
@run_argument
@click.option("--num", type=click.IntRange(1, 10**9), default=64, help="How many.  [64]")
@out_option("A .png, .npz or, of a table, .csv file.  [RUN/samples.png, or as the data is]")
@condition_option(
    "Of a conditional run.  [the classes in turn, or the conditions of the test data]"
)
@seed_option
def sample(run: Path, num: int, out: Path | None, condition: str | None, **options: Any) -> None:
    """Generate: decode z ~ p(z)."""
    from flowvae.outputs import sample as run_sample

    opened, out = _picture_or_arrays(run, out, "samples", options)
    given = condition_of(opened, condition)
    run_sample(opened, num, out=out, condition=given, **options)
    click.echo(f"Wrote {out}")


@cli.command()
@run_argument
@click.option("--num", type=click.IntRange(1, 10**9), default=16, help="How many.  [16]")
@out_option("A .png, .npz or, of a table, .csv file.  [RUN/reconstructions.png, or as the data is]")
@condition_option("Of a conditional run: rewrite the data under this one.  [each datum's own]")
@data_option
@refine_option
@seed_option
def reconstruct(
    run: Path, num: int, out: Path | None, condition: str | None, **options: Any
) -> None:
    """Encode, flow and decode the first test data."""
    from flowvae.outputs import reconstruct as run_reconstruct

    opened, out = _picture_or_arrays(run, out, "reconstructions", options)
    given = condition_of(opened, condition)
    run_reconstruct(opened, num, out=out, condition=given, **options)
    click.echo(f"Wrote {out}")


@cli.command()
@run_argument
@click.option("--split", type=click.Choice(["test", "train"]), default="test", help="[test]")
@out_option("A .npz or .csv file.  [RUN/latents.npz]")
@data_option
@refine_option
@seed_option
def encode(run: Path, split: str, out: Path | None, **options: Any) -> None:
    """Write z ~ q(z|x), its log-density and the labels."""
    from flowvae.outputs import encode as run_encode

    opened = open_with(run, options)
    out = out or opened.path / "latents.npz"
    found = run_encode(opened, split, out=out, **options)
    click.echo(f"Wrote {out}: {', '.join(f'{k} {v.shape}' for k, v in found.items())}")


@cli.command()
@run_argument
@data_option
def figures(run: Path, **options: Any) -> None:
    """Draw the pictures of a run again."""
    from flowvae.api import draw_figures

    for path in draw_figures(open_with(run, options), **options):
        click.echo(f"Wrote {path}")


@cli.command()
@click.argument("source")
@data_options
def data(source: str, **flags: Any) -> None:
    """Tell what --data SOURCE finds: shape, splits, ranges, columns, likelihoods that fit."""
    given = {name: value for name, value in flags.items() if value is not None}
    config = resolve_config(data=source, **given)

    from flowvae.api import describe_data

    click.echo(describe_data(config))


@cli.command()
@click.argument("name", type=click.Choice(list(PRESETS)), required=False)
def presets(name: str | None) -> None:
    """List the presets, or print one as YAML."""
    if name:
        click.echo(resolve_config(preset=name).to_yaml(), nl=False)
        return
    width = max(map(len, PRESETS))
    for each, (text, _) in PRESETS.items():
        click.echo(f"{each:<{width}}  {text}")


cli.add_command(train)
cli.add_command(classify)
cli.add_command(reproduce)
cli.add_command(explore)
cli.add_command(traverse)
cli.add_command(interpolate)
cli.add_command(impute)
cli.add_command(export)
cli.add_command(push)


def _picture_or_arrays(
    path: Path, out: Path | None, stem: str, options: dict[str, Any]
) -> tuple[Any, Path]:
    from flowvae.figures.images import is_image

    run = open_with(path, options)
    suffix = ".png" if is_image(run.model.data_shape) else ".npz"
    suffix = ".csv" if run.model.columns is not None else suffix
    return run, out or run.path / f"{stem}{suffix}"


def main(arguments: list[str] | None = None) -> None:
    """Run a command.

    Exit codes: 0 done, 1 training failed, 2 bad input, 130 interrupted, 143 terminated.
    """
    run_command(cli, arguments)

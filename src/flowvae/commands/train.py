"""``flowvae train``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from flowvae.commands.options import out_option, stop_when_told, trust_option
from flowvae.config import PRESETS, load_config, resolve_config
from flowvae.config.flags import ConfigCommand, config_options, given_values
from flowvae.errors import UserError

__all__ = ["train"]


@click.command(cls=ConfigCommand)
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), help="Values to start from.  [original]"
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="A YAML file of values, such as a run's config.yaml; flags override it. A "
    "MODULE:CLASS that it names is imported.",
)
@out_option("The run folder, new or empty.  [dated, under runs/]")
@click.option(
    "--resume",
    "resumed",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with a run that was stopped or killed; with --epochs N until N are done in all.",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@trust_option
@config_options
@click.pass_context
def train(
    ctx: click.Context,
    preset: str | None,
    config_file: Path | None,
    out: Path | None,
    resumed: Path | None,
    quiet: bool,
    trust: bool,
    **flags: Any,
) -> None:
    """Train, evaluate on the test data, draw pictures.

    Defaults are those of the preset 'original'; see 'flowvae presets' for the others.
    """
    given = given_values(flags, ctx.args)
    if resumed:
        given |= {"preset": preset, "config": config_file, "out": out}
        folder, start = _resumed(resumed, given, trust)
    else:
        folder, start = _new_run(preset, config_file, out, given)
    stop_when_told()
    try:
        run = start(progress=not quiet)
    except KeyboardInterrupt:
        if (folder / "config.yaml").exists():
            click.echo(f"\nInterrupted. Go on with: flowvae train --resume {folder}", err=True)
        raise

    from flowvae.progress import evaluation_text

    evaluation = run.evaluation
    if evaluation is not None:
        click.echo(evaluation_text(evaluation))
    click.echo(f"Run: {run.path}\nPictures: {run.figures}")


def _new_run(
    preset: str | None, config_file: Path | None, out: Path | None, given: dict[str, Any]
) -> tuple[Path, Callable[..., Any]]:
    """The folder of a run, and what makes it."""
    if preset and config_file:
        raise UserError("preset: cannot be given with --config, which says all; use one of them")
    if config_file:
        config = load_config(config_file, **given)
    else:
        config = resolve_config(preset=preset or "original", **given)

    from flowvae.api import train as run_training
    from flowvae.run_folders import new_run_folder

    folder = new_run_folder(out, config)
    return folder, partial(run_training, config, out=folder)


def _resumed(run: Path, given: dict[str, Any], trust: bool) -> tuple[Path, Callable[..., Any]]:
    """The folder of a run, and what goes on with it."""
    allowed = {name: given.pop(name, None) for name in ("epochs", "device")}
    for name, value in given.items():
        if value is not None:
            raise UserError(
                f"{name}: would make another run of {run}; with --resume expected none but "
                "--epochs, --device, --trust and --quiet"
            )

    from flowvae.api import resume as go_on

    return run, partial(go_on, run, trust=trust, **allowed)

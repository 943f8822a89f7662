"""``flowvae train``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from flowvae.commands.options import out_option, stop_when_told, trust_option
from flowvae.config import PRESETS, Config, load_config, resolve_config
from flowvae.config.flags import ConfigCommand, config_options, given_values
from flowvae.errors import ProcessLostError, UserError

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
    allowed, config = {}, None
    if resumed:
        given |= {"preset": preset, "config": config_file, "out": out}
        allowed = _of_resumed(resumed, given)
    else:
        config = _configuration(preset, config_file, given)

    from flowvae import processes
    from flowvae.api import resume
    from flowvae.api import train as run_training
    from flowvae.progress import evaluation_text
    from flowvae.run_folders import new_run_folder

    with processes.joined():
        stop_when_told()
        if config is None:
            folder = Path(resumed or "")
            start = partial(resume, folder, trust=trust, **allowed)
        else:
            folder = Path(processes.first_decides(lambda: str(new_run_folder(out, config))))
            start = partial(run_training, config, out=folder)
        run = _started(start, folder, quiet)
    evaluation = run.evaluation
    if evaluation is not None:
        click.echo(evaluation_text(evaluation))
    click.echo(f"Run: {run.path}\nPictures: {run.figures}")


def _started(start: Callable[..., Any], folder: Path, quiet: bool) -> Any:
    """Train; where that ends early, say what goes on with it."""
    go_on = f"Go on with: flowvae train --resume {folder}"
    try:
        return start(progress=not quiet)
    except KeyboardInterrupt:
        if (folder / "config.yaml").exists():
            click.echo(f"\nInterrupted. {go_on}", err=True)
        raise
    except ProcessLostError as error:
        raise ProcessLostError(f"{error}. {go_on}") from None


def _configuration(preset: str | None, config_file: Path | None, given: dict[str, Any]) -> Config:
    if preset and config_file:
        raise UserError("preset: cannot be given with --config, which says all; use one of them")
    if config_file:
        return load_config(config_file, **given)
    return resolve_config(preset=preset or "original", **given)


def _of_resumed(run: Path, given: dict[str, Any]) -> dict[str, Any]:
    """What can be given beside the run to go on with."""
    allowed = {name: given.pop(name, None) for name in ("epochs", "device")}
    for name, value in given.items():
        if value is not None:
            raise UserError(
                f"{name}: would make another run of {run}; with --resume expected none but "
                "--epochs, --device, --trust and --quiet"
            )
    return allowed

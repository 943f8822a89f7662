"""What several commands have in common."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flowvae.config.flags import ONCE
from flowvae.errors import Terminated, UserError

__all__ = [
    "condition_of",
    "condition_option",
    "data_option",
    "device_option",
    "open_with",
    "out_option",
    "refine_option",
    "run_argument",
    "seed_option",
    "stop_when_told",
    "trust_option",
]

device_option = click.option(
    "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.  [auto]"
)
trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Import the module of a family that is MODULE:CLASS, which executes its code.",
)


def run_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument RUN, and how to open it."""
    return click.argument("run", type=click.Path(path_type=Path))(
        trust_option(device_option(command))
    )


def open_with(run: Path, options: dict[str, Any]) -> Any:
    from flowvae.hub.fetching import is_on_hub
    from flowvae.runs import open_run

    if is_on_hub(run):  # commands write into the run's folder
        raise UserError(
            "run: expected a folder; what is on the hub opens in Python, by flowvae.load or "
            "flowvae.open_run"
        )
    return open_run(run, options.pop("device"), trust=options.pop("trust"))


data_option = click.option(
    "--data", default=None, help="Other data than the run's, of the same shape."
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Of the draws of z.  [0]"
)


refine_option = click.option(
    "--refine",
    type=click.IntRange(0, 1000),
    default=0,
    help="Steps of optimization of q(z|x) for each datum, from the encoder's answer.  [0]",
)


def condition_option(what: str) -> Callable[..., Any]:
    text = f"A value, or NAME=VALUE,… of several columns. {what}"
    return click.option("--condition", metavar="VALUE", default=None, help=text, **ONCE)


def condition_of(run: Any, text: str | None) -> Any:
    """What ``--condition`` says, for a run that is open."""
    from flowvae.data.condition_texts import condition_from_text

    return None if text is None else condition_from_text(run.model.condition, text)


def out_option(what: str) -> Callable[..., Any]:
    return click.option("--out", type=click.Path(path_type=Path), default=None, help=what)


def stop_when_told() -> None:
    """From here on SIGTERM, and SIGHUP where it is not ignored, end the work as Ctrl-C does."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminate)


def _terminate(*_: Any) -> None:
    raise Terminated

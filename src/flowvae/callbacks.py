"""Functions to be called after each epoch of training: ``flowvae.train(…, on_epoch=…)``.

Any function of the run, the row of metrics and the model will do; what it returns is of no matter,
unless it is True, which ends training. TensorBoard needs none: its events are written to the run
when it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from flowvae.errors import UserError

__all__ = ["in_turn", "mlflow_callback", "wandb_callback"]

Callback = Callable[[Any, dict[str, float], Any], Any]


def in_turn(*callbacks: Callback) -> Callback:
    """One callback of several; training ends if one of them says so.

    Examples:
        >>> seen = []
        >>> both = in_turn(lambda run, row, model: seen.append(row["epoch"]),
        ...                lambda run, row, model: row["epoch"] >= 2)
        >>> both(None, {"epoch": 1.0}, None), both(None, {"epoch": 2.0}, None), seen
        (False, True, [1.0, 2.0])
    """

    def call(run: Any, row: dict[str, float], model: Any) -> bool:
        answers = [callback(run, row, model) for callback in callbacks]
        return any(answer is True for answer in answers)

    return call


def wandb_callback(**init: Any) -> Callback:
    """Send each epoch's metrics to Weights & Biases; needs ``pip install "flowvae[wandb]"``.

    Args:
        **init: for ``wandb.init``, such as ``project``; the configuration goes with it.

    Raises:
        UserError: wandb is not installed.
    """
    wandb = _imported("wandb")
    return _logging(
        lambda run: wandb.init(config=_settings(run), **init),
        lambda begun, row: begun.log(row, step=int(row["epoch"])),
    )


def mlflow_callback(**start: Any) -> Callback:
    """Send each epoch's metrics to MLflow; needs ``pip install "flowvae[mlflow]"``.

    Args:
        **start: for ``mlflow.start_run``, such as ``run_name``; the configuration goes with it.

    Raises:
        UserError: mlflow is not installed.
    """
    mlflow = _imported("mlflow")

    def begin(run: Any) -> str:
        with mlflow.start_run(**start) as begun:
            mlflow.log_params(_settings(run))
            return begun.info.run_id

    return _logging(
        begin, lambda begun, row: mlflow.log_metrics(row, step=int(row["epoch"]), run_id=begun)
    )


def _logging(begin: Callable[[Any], Any], log: Callable[[Any, dict[str, float]], None]) -> Callback:
    """A callback that logs each row to what ``begin`` gave for the run, which it asks once."""
    runs: dict[str, Any] = {}

    def call(run: Any, row: dict[str, float], model: Any) -> None:
        del model
        key = str(run.path)
        if key not in runs:
            runs[key] = begin(run)
        log(runs[key], row)

    return call


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise UserError(
            f'{name}: expected the package {name}, got none; pip install "flowvae[{name}]"'
        ) from None


def _settings(run: Any) -> dict[str, Any]:
    return _flat(run.config.model_dump(mode="json"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of sections by their dotted names.

    Examples:
        >>> _flat({"seed": 0, "training": {"epochs": 5}})
        {'seed': 0, 'training.epochs': 5}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found

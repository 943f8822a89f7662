"""The configuration that the estimator's arguments come to, and what is saved of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from flowvae.config import Config, resolve_config
from flowvae.errors import UserError, first_complaint
from flowvae.likelihoods import COLUMNS, REAL
from flowvae.registry import LIKELIHOODS

__all__ = ["Saved", "check_same", "config_of", "read_fields", "saved_fields", "wants_scaling"]

_FIELDS = (
    *("posterior", "prior", "likelihood", "network", "latent_dim", "epochs", "batch_size"),
    *("learning_rate", "weight_decay", "max_grad_norm", "device", "missing"),
)


def config_of(parameters: Mapping[str, Any], seed: int) -> Config:
    """The configuration of an estimator with these parameters.

    Args:
        parameters: as its ``get_params`` gives them.
        seed: of everything.

    Raises:
        UserError: a value is out of range.
    """
    settings = parameters["settings"] or {}
    named = {name: parameters[name] for name in _FIELDS}
    config = resolve_config(data="arrays", seed=seed, **named, **settings)
    model = config.model
    # Options that are arguments of the estimator or have another default there, where the chosen
    # family has them.
    wanted = (
        ("posterior", model.posterior, "num_flows", parameters["num_flows"]),
        ("posterior", model.posterior, "constraint", "centred"),
        ("network", model.network, "hidden_dims", tuple(parameters["hidden_dims"])),
        # One σ for each value of each row: quantities are not equally well explained.
        ("likelihood", model.likelihood, "sigma", "per_pixel"),
    )
    return config.replace(
        **{
            f"{kind}.{name}": value
            for kind, part, name, value in wanted
            if name in part.options() and name not in settings
        }
    )


def check_same(before: Config, after: Config) -> None:
    """See that training can go on: nothing has changed but the number of epochs.

    Raises:
        ValueError: the model's or the training's settings have changed.
    """
    for section in ("model", "data", "objective", "training"):
        old, new = (getattr(config, section).model_dump() for config in (before, after))
        for name in sorted({*old, *new} - {"epochs"}):
            if old.get(name) != new.get(name):
                raise ValueError(
                    f"warm_start: expected the settings of the first fit but for epochs, got "
                    f"another {name}"
                )


class Saved(BaseModel):
    """What :meth:`flowvae.FlowVAE.save` adds to a model's file."""

    parameters: dict[str, Any]
    n_features_in: int
    feature_names_in: list[str]
    seed: int
    elbo: list[float]
    classes: Any = None  # of a classifier


def saved_fields(estimator: Any) -> dict[str, Any]:
    """What :class:`Saved` has of any fitted estimator, in plain values."""
    parameters = {name: _plain(value) for name, value in estimator.get_params().items()}
    if not isinstance(parameters["random_state"], int | None):
        parameters["random_state"] = None
    names = getattr(estimator, "feature_names_in_", None)
    return {
        "parameters": parameters,
        "n_features_in": estimator.n_features_in_,
        "feature_names_in": [] if names is None else names.tolist(),
        "seed": estimator._seed,
        "elbo": estimator.elbo_,
    }


def _plain(value: Any) -> Any:
    """Without NumPy's numbers and arrays, of which a search over parameters makes some."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def read_fields(kind: Any, path: str | Path, header: Mapping[str, str]) -> tuple[Any, Saved]:
    """An estimator with the saved parameters, and what else was saved.

    Raises:
        UserError: the header of the file is none of an estimator of this kind.
    """
    if "estimator" not in header:
        raise UserError(f"estimator: expected a file that {kind.__name__}.save wrote, got {path}")
    try:
        about = Saved.model_validate_json(header["estimator"])
        return kind(**about.parameters), about
    except ValidationError as error:
        raise UserError(f"estimator: {path}: {': '.join(first_complaint(error))}") from None
    except TypeError as error:
        raise UserError(f"estimator: {path}: parameters: {error}") from None


def wants_scaling(standardize: Any, likelihood: str) -> bool:
    """Whether columns are standardised, ``"auto"`` where the likelihood lives on all of R.

    Raises:
        ValueError: it is neither a truth value nor ``"auto"``.
    """
    if standardize not in (True, False, "auto"):
        raise ValueError(f"standardize: expected True, False or 'auto', got {standardize!r}")
    if standardize == "auto":
        return LIKELIHOODS[likelihood].support in (REAL, COLUMNS)
    return bool(standardize)

"""The configuration that the estimator's arguments come to, and what is saved of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from flowvae.config import Config, resolve_config

__all__ = ["Saved", "check_same", "config_of"]

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

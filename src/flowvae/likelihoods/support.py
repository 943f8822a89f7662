"""Whether a data set lies where a likelihood is defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowvae.errors import UserError
from flowvae.registry import LIKELIHOODS

if TYPE_CHECKING:
    from flowvae.config import Config
    from flowvae.data import Dataset

__all__ = ["check_support", "fitting_likelihoods"]


def check_support(config: Config, dataset: Dataset) -> None:
    """Refuse data on which the configured likelihood is not defined.

    Raises:
        UserError: one line with the likelihood, its support, what the data is, and which
            likelihoods fit it.
    """
    support = LIKELIHOODS[config.likelihood].support
    if support.contains(dataset, config):
        return
    found = dataset.statistics
    kind = "whole numbers" if found.integer else "numbers"
    kind = kind if dataset.columns is None else f"a table, {kind}"
    raise UserError(
        f"likelihood: {config.likelihood} expects {support.description}, got {kind} from "
        f"{found.low:g} to {found.high:g} in {dataset.name}; what fits: "
        f"{', '.join(fitting_likelihoods(config, dataset))}"
    )


def fitting_likelihoods(config: Config, dataset: Dataset) -> list[str]:
    """Names of the likelihoods that are defined on this data."""
    return [name for name in LIKELIHOODS if LIKELIHOODS[name].support.contains(dataset, config)]

"""Whether a data set lies where a likelihood is defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowvae.config.options import Part, options_of
from flowvae.errors import UserError
from flowvae.registry import LIKELIHOODS

if TYPE_CHECKING:
    from flowvae.data import Dataset

__all__ = ["check_support", "fitting_likelihoods"]


def check_support(likelihood: Part, dataset: Dataset) -> None:
    """Refuse data on which the likelihood is not defined.

    Raises:
        UserError: one line with the likelihood, its support, what the data is, and which
            likelihoods fit it.
    """
    support = LIKELIHOODS[likelihood.name].support
    if support.contains(dataset, likelihood.options()):
        return
    found = dataset.statistics
    kind = "whole numbers" if found.integer else "numbers"
    kind = kind if dataset.columns is None else f"a table, {kind}"
    raise UserError(
        f"likelihood: {likelihood.name} expects {support.description}, got {kind} from "
        f"{found.low:g} to {found.high:g} in {dataset.name}; what fits: "
        f"{', '.join(fitting_likelihoods(dataset))}"
    )


def fitting_likelihoods(dataset: Dataset) -> list[str]:
    """Names of the likelihoods that are defined on this data, with their default options."""
    return [
        name
        for name in LIKELIHOODS
        if LIKELIHOODS[name].support.contains(
            dataset, options_of("likelihood", name)().model_dump()
        )
    ]

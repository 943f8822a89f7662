"""The families one can choose by name: one line each, next to nothing to import.

The command line reads the names here, so this file must not import torch; the class behind a name
is imported when first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

__all__ = ["LIKELIHOODS", "NETWORKS", "OBJECTIVES", "POSTERIORS", "PRIORS", "Registry"]


class Registry(Mapping[str, Any]):
    """Names of one kind of part, each with a class or the ``"module:Class"`` to import it from.

    Examples:
        >>> from flowvae.registry import POSTERIORS
        >>> list(POSTERIORS)
        ['planar']
        >>> POSTERIORS["planar"].__name__
        'PlanarPosterior'
    """

    def __init__(self, kind: str, entries: dict[str, Any]) -> None:
        self.kind = kind
        self._entries = entries

    def __getitem__(self, name: str) -> Any:
        if name not in self._entries:
            raise ValueError(f"{self.kind}: expected one of {', '.join(self)}, got {name!r}")
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(import_module(module), attribute)
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, name: str, entry: Any) -> None:
        """Add a family: a class, or the ``"module:Class"`` to import it from when needed."""
        self._entries[name] = entry


POSTERIORS = Registry("posterior", {"planar": "flowvae.posteriors:PlanarPosterior"})
PRIORS = Registry("prior", {"standard_normal": "flowvae.priors:StandardNormal"})
LIKELIHOODS = Registry(
    "likelihood",
    {
        "bernoulli": "flowvae.likelihoods:Bernoulli",
        "gaussian": "flowvae.standin_likelihoods:Gaussian",
        "mixed": "flowvae.standin_likelihoods:Mixed",
    },
)
NETWORKS = Registry("network", {"mlp": "flowvae.networks:MLP"})
OBJECTIVES = Registry(
    "objective",
    {
        "elbo": "flowvae.objectives:Elbo",
        "stl": "flowvae.objectives:Stl",
        "iwae": "flowvae.objectives:Iwae",
        "dreg": "flowvae.objectives:Dreg",
    },
)

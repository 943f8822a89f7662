"""The families one can choose by name: one line each, next to nothing to import.

The command line reads the names here, so this file must not import torch; the class behind a name
is imported when first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from flowvae.errors import UserError

__all__ = ["FAMILIES", "LIKELIHOODS", "NETWORKS", "OBJECTIVES", "POSTERIORS", "PRIORS", "Registry"]


class Registry(Mapping[str, Any]):
    """Names of one kind of part, each with a class or the ``"module:Class"`` to import it from.

    A name may itself be such a ``"module:Class"``, so that your own class needs no line here:
    ``--posterior mymodule:MyPosterior``.

    Examples:
        >>> from flowvae.registry import POSTERIORS
        >>> "planar" in POSTERIORS
        True
        >>> POSTERIORS["planar"].__name__
        'PlanarPosterior'
    """

    def __init__(self, kind: str, entries: dict[str, Any]) -> None:
        self.kind = kind
        self._entries = entries
        self._given: dict[str, type] = {}  # classes given in Python

    def __getitem__(self, name: str) -> Any:
        if name in self._given:
            return self._given[name]
        if name not in self:
            raise ValueError(f"{self.kind}: expected one of {', '.join(self)}, got {name!r}")
        entry = self._entries.get(name, name)
        if not isinstance(entry, str):
            return entry
        module, _, attribute = entry.partition(":")
        if name in self._entries:
            entry = self._entries[name] = getattr(import_module(module), attribute)
            return entry
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{self.kind}: cannot import {name}: {error}") from None
        if not _is_family(self.kind, found):
            raise UserError(f"{self.kind}: expected {_WANTED[self.kind]}, got {name}")
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._entries or (
            isinstance(name, str) and (name in self._given or is_path(name))
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def name_of(self, family: type) -> str:
        """The name of a class; one that is not registered becomes known as ``"module:Class"``.

        Raises:
            UserError: it is no family of this kind.
        """
        for name, entry in self._entries.items():
            if entry is family or (
                family.__module__.startswith("flowvae.") and self[name] is family
            ):
                return name
        if not _is_family(self.kind, family):
            raise UserError(
                f"{self.kind}: expected {_WANTED[self.kind]}, got {family.__qualname__}"
            )
        name = f"{family.__module__}:{family.__qualname__}"
        self._given[name] = family
        return name

    def module_of(self, name: str) -> str | None:
        """The module that would be imported for a ``"module:Class"``; none for what is known."""
        return None if name in self._entries or name in self._given else name.partition(":")[0]

    def register(self, name: str, entry: Any) -> None:
        """Add a family: a class, or the ``"module:Class"`` to import it from when needed."""
        self._entries[name] = entry


_WANTED = {
    "posterior": "a torch.nn.Module that maps features to q(z|x)",
    "prior": "a torch.nn.Module that gives p(z)",
    "likelihood": "a subclass of flowvae.likelihoods.Likelihood",
    "network": "a class with class methods encoder and decoder",
    "objective": "a subclass of flowvae.objectives.Objective",
}


def _is_family(kind: str, found: Any) -> bool:
    """Whether it is a class of this kind; a class of anything may be named from outside."""
    if not isinstance(found, type):
        return False
    if kind == "network":
        return all(callable(getattr(found, name, None)) for name in ("encoder", "decoder"))
    if kind in ("likelihood", "objective"):
        module, base = _WANTED[kind].rpartition(" ")[2].rsplit(".", 1)
    else:
        module, base = "torch.nn", "Module"
    return issubclass(found, getattr(import_module(module), base))


def is_path(name: str) -> bool:
    """Whether a name is ``"module:Class"``."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and module.replace(".", "_").isidentifier()


POSTERIORS = Registry(
    "posterior",
    {
        "gaussian": "flowvae.posteriors:GaussianPosterior",
        "full_gaussian": "flowvae.posteriors:FullGaussianPosterior",
        "planar": "flowvae.posteriors:PlanarPosterior",
        "radial": "flowvae.posteriors:RadialPosterior",
        "householder": "flowvae.posteriors:HouseholderPosterior",
        "sylvester_orthogonal": "flowvae.posteriors:OrthogonalSylvesterPosterior",
        "sylvester_householder": "flowvae.posteriors:HouseholderSylvesterPosterior",
        "sylvester_triangular": "flowvae.posteriors:TriangularSylvesterPosterior",
        "iaf": "flowvae.posteriors:IAFPosterior",
        "coupling": "flowvae.posteriors:CouplingPosterior",
        "spline": "flowvae.posteriors:SplinePosterior",
    },
)
PRIORS = Registry(
    "prior",
    {
        "standard_normal": "flowvae.priors:StandardNormal",
        "normal": "flowvae.priors:NormalPrior",
        "gaussian_mixture": "flowvae.priors:GaussianMixture",
        "vampprior": "flowvae.priors:VampPrior",
        "flow": "flowvae.priors:FlowPrior",
    },
)
LIKELIHOODS = Registry(
    "likelihood",
    {
        "bernoulli": "flowvae.likelihoods:Bernoulli",
        "continuous_bernoulli": "flowvae.likelihoods:ContinuousBernoulli",
        "gaussian": "flowvae.likelihoods:Gaussian",
        "discretized_logistic": "flowvae.likelihoods:DiscretizedLogistic",
        "logistic_mixture": "flowvae.likelihoods:DiscretizedLogisticMixture",
        "categorical": "flowvae.likelihoods:Categorical",
        "poisson": "flowvae.likelihoods:Poisson",
        "negative_binomial": "flowvae.likelihoods:NegativeBinomial",
        "mixed": "flowvae.likelihoods:MixedColumns",
    },
)
NETWORKS = Registry(
    "network",
    {
        "mlp": "flowvae.networks:MLP",
        "gated_conv": "flowvae.networks:GatedConv",
        "resnet": "flowvae.networks:ResNet",
    },
)
OBJECTIVES = Registry(
    "objective",
    {
        "elbo": "flowvae.objectives:Elbo",
        "stl": "flowvae.objectives:Stl",
        "iwae": "flowvae.objectives:Iwae",
        "dreg": "flowvae.objectives:Dreg",
        "m2": "flowvae.semi_supervised:M2",
    },
)

FAMILIES = {
    registry.kind: registry for registry in (POSTERIORS, PRIORS, LIKELIHOODS, NETWORKS, OBJECTIVES)
}

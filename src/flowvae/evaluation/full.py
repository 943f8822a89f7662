"""Everything that can be said about how good a model is, each figure with its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowvae.data import Dataset
from flowvae.evaluation.ais import annealed_importance_sampling, bdmc
from flowvae.evaluation.cached import Arrays, CachedEstimate, data_digest, in_order, model_digest
from flowvae.evaluation.diagnostics import active_units, mutual_information
from flowvae.evaluation.gaps import inference_gaps
from flowvae.evaluation.importance import importance_sampling
from flowvae.evaluation.mixture_sampling import mixture_importance_sampling
from flowvae.evaluation.quadrature import quadrature
from flowvae.evaluation.settings import FullSettings
from flowvae.evaluation.summary import summarise
from flowvae.refined import RefinedVAE
from flowvae.vae import VAE

__all__ = ["FullEvaluation", "evaluate_full", "importance_estimate"]

Advance = Callable[[float], None]

_REFINED_SAMPLES = 200


@dataclass(frozen=True)
class FullEvaluation:
    """What :func:`evaluate_full` found: summaries to print, and every datum's values.

    Args:
        summary: what is written to ``evaluation/full.json``.
        per_datum: part -> name -> (n,), over the first n data of ``index``.
        index: the order of the test data.
    """

    summary: dict[str, Any]
    per_datum: dict[str, Arrays] = field(repr=False)
    index: Tensor = field(repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.summary[name]


def importance_estimate(
    model: VAE, dataset: Dataset, samples: int, count: int | None = None, block: int = 500
) -> CachedEstimate:
    """Importance sampling of the test data as a part that is kept."""
    count = min(count or len(dataset.test), len(dataset.test))
    order = in_order(dataset.test)
    device = next(model.parameters()).device

    def compute(chosen: slice, generator: torch.Generator) -> Arrays:
        x = dataset.test.rows(order[chosen]).to(device)
        return importance_sampling(model, x, samples, generator)

    return CachedEstimate("importance", count, block, samples, {"samples": samples}, compute)


class _Estimates:
    """What each part computes for a block of data."""

    def __init__(self, model: VAE, dataset: Dataset, settings: FullSettings) -> None:
        self.model, self.test, self.settings = model, dataset.test, settings
        self.order = in_order(dataset.test)
        self.device = next(model.parameters()).device
        self.annealing: dict[str, Any] = {
            "chains": settings.ais_chains,
            "temperatures": settings.ais_temperatures,
            "leapfrog": settings.ais_leapfrog,
        }

    def data(self, chosen: slice) -> Tensor:
        return self.test.rows(self.order[chosen]).to(self.device)

    def mixture(self, chosen: slice, generator: torch.Generator) -> Arrays:
        samples = self.settings.samples
        return mixture_importance_sampling(self.model, self.data(chosen), samples, generator)

    def quadrature(self, chosen: slice, generator: torch.Generator) -> Arrays:
        del generator  # it draws nothing that matters
        found = quadrature(self.model, self.data(chosen))
        arrays = {"log_prob": found.log_prob, "error": found.error}
        if found.kl is not None and found.kl_error is not None:
            arrays |= {"kl": found.kl, "kl_error": found.kl_error}
        return arrays

    def ais(self, chosen: slice, generator: torch.Generator) -> Arrays:
        x = self.data(chosen)
        return asdict(
            annealed_importance_sampling(self.model, x, generator=generator, **self.annealing)
        )

    def bdmc(self, chosen: slice, generator: torch.Generator) -> Arrays:
        size, seed = chosen.stop - chosen.start, generator.initial_seed()
        like = None
        if self.model.condition is not None or self.model.missing:
            # There may be fewer test data than simulated ones: then in turn.
            place = torch.arange(chosen.start, chosen.stop) % len(self.order)
            like = self.test.rows(self.order[place]).to(self.device)
        return asdict(bdmc(self.model, size, like=like, seed=seed, **self.annealing))

    def gaps(self, chosen: slice, generator: torch.Generator) -> Arrays:
        steps = self.settings.gap_steps
        return inference_gaps(self.model, self.data(chosen), steps=steps, generator=generator)

    def refined(self, chosen: slice, generator: torch.Generator) -> Arrays:
        model = RefinedVAE(self.model, steps=self.settings.refine_steps)
        x = self.data(chosen)
        found = importance_sampling(model, x, _REFINED_SAMPLES, generator)
        arrays = {name: found[name] for name in ("elbo", "elbo_error", "iw_bound")}
        if model.latent_dim <= 2:
            exact = quadrature(model, x)
            if exact.kl is not None and exact.kl_error is not None:
                arrays |= {"kl": exact.kl, "kl_error": exact.kl_error}
        return arrays

    def information(self, chosen: slice, generator: torch.Generator) -> Arrays:
        x = self.data(chosen)
        _, variance = active_units(self.model, x, generator=generator)
        arrays = {"unit_variance": variance[None]}
        try:
            found = mutual_information(self.model, x, generator=generator)
        except NotImplementedError:  # no density at given z
            return arrays
        for name in ("kl", "mutual_information", "marginal_kl"):
            value = getattr(found, name)
            arrays[name] = torch.tensor([[value.mean, value.standard_error]], dtype=torch.float64)
        return arrays


def _parts(model: VAE, dataset: Dataset, s: FullSettings) -> list[CachedEstimate]:
    """All parts; the cost of one datum in passes through the decoder, backward ones twice."""
    N, of = len(dataset.test), _Estimates(model, dataset, s)
    drawn = {"samples": s.samples}
    chain = 4 * s.ais_chains * s.ais_temperatures * s.ais_leapfrog
    fit = 3 * 16 * s.gap_steps
    n = min(s.information_count, N)
    parts = [importance_estimate(model, dataset, s.samples, s.count)]
    if s.samples >= 4 and _has_density(model):
        parts.append(
            CachedEstimate("mixture", min(s.mixture_count, N), 200, s.samples, drawn, of.mixture)
        )
    if model.latent_dim <= 2:
        parts.append(
            CachedEstimate("quadrature", min(s.quadrature_count, N), 100, 12_000, {}, of.quadrature)
        )
    cost = 12 * model.latent_dim * s.refine_steps + _REFINED_SAMPLES
    cost += 12_000 if model.latent_dim <= 2 else 0
    about = {"steps": s.refine_steps, "samples": _REFINED_SAMPLES}
    count = min(s.refine_count, N)
    parts.append(CachedEstimate("refined", count, 100, cost, about, of.refined))
    parts += [
        CachedEstimate("ais", min(s.ais_count, N), 10, chain, of.annealing, of.ais),
        CachedEstimate("bdmc", s.bdmc_count, 10, 2 * chain, of.annealing, of.bdmc),
        CachedEstimate("gaps", min(s.gap_count, N), 50, fit, {"steps": s.gap_steps}, of.gaps),
    ]
    if n > 1:
        parts.append(CachedEstimate("information", n, n, 100, {}, of.information))
    return parts


@torch.no_grad()
def _has_density(model: VAE) -> bool:
    """Whether q(z|x) has log_prob at given z."""
    parameter = next(model.parameters())
    q = model.posterior(parameter.new_zeros(1, model.row_dim))
    try:
        q.log_prob(parameter.new_zeros(1, model.latent_dim))
    except NotImplementedError:
        return False
    return True


def evaluate_full(
    model: VAE,
    dataset: Dataset,
    folder: Path,
    settings: FullSettings,
    *,
    seed: int = 0,
    bar: Callable[[float], Any] | None = None,
) -> FullEvaluation:
    """Compute all parts, or read those that are in ``folder`` already.

    Args:
        model: the model; it is put in evaluation mode.
        dataset: whose test split is used.
        folder: where the parts are kept.
        settings: how much of everything.
        seed: of all draws.
        bar: given the total cost, a context that gives the function to report what is done.
    """
    model.eval()
    device = next(model.parameters()).device
    about = {"model": model_digest(model), "data": data_digest(dataset.test)}
    parts = _parts(model, dataset, settings)
    found: dict[str, Arrays] = {}

    def compute(advance: Advance) -> None:
        for part in parts:
            found[part.name] = part.load_or_compute(folder, about, seed, device, advance)

    if bar is None:
        compute(lambda cost: None)  # noqa: ARG005
    else:
        with bar(sum(part.total for part in parts)) as advance:
            compute(advance)
    summary = summarise(model, dataset, settings, seed, about, found)
    return FullEvaluation(summary, found, in_order(dataset.test))

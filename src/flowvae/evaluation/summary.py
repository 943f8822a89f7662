"""The figures of a full evaluation from every datum's values."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from flowvae.data import Dataset
from flowvae.evaluation.cached import Arrays
from flowvae.evaluation.estimates import Estimate
from flowvae.evaluation.importance import reliable_pareto_k, share_above
from flowvae.likelihoods import measure_of
from flowvae.vae import VAE

if TYPE_CHECKING:
    from flowvae.evaluation.settings import FullSettings

__all__ = ["bits_per_dim", "pair", "summarise"]


def bits_per_dim(model: VAE, dataset: Dataset) -> tuple[float | None, str]:
    """What to multiply nats by for bits per dimension, and why that is meaningful or not.

    -1 / (P ln 2) where exp log p(x) is a probability: binary pixels under a Bernoulli likelihood,
    8-bit pixels under a likelihood of 8-bit values, counts, categories.

    Examples:
        >>> import flowvae
        >>> from flowvae.data import load_dataset
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(28, 28))
        >>> bits_per_dim(model, load_dataset("mnist"))
        (None, 'grey pixels: a pseudo-likelihood has no bits')
        >>> bits_per_dim(model, load_dataset("mnist", "threshold"))[1]
        'binary pixels'
    """
    measure = measure_of(model.likelihood, not dataset.pseudo_likelihood)
    if measure == "pseudo-likelihood":
        return None, "grey pixels: a pseudo-likelihood has no bits"
    if measure != "probability":
        return None, f"log p(x) is a {measure}, whose bits depend on the data's unit"
    if model.missingness is not None or dataset.test.has_missing:
        return None, "log p(x) is of what is there, and data differ in how much that is"
    support = model.likelihood.support
    counted = {"unit_interval": "binary pixels", "eight_bit": "8-bit values"}
    factor = -1 / (model.data_dim * math.log(2))
    return factor, counted.get(support.name, support.name)  # pyright: ignore


def pair(values: Tensor) -> dict[str, float | None]:
    """Mean and standard error over the data; none where there is one datum."""
    return asdict(Estimate.of(values))


def _root_mean(errors: Tensor) -> float | None:
    """The Monte Carlo error of a mean, from those of its parts."""
    value = errors.double().square().sum().sqrt().item() / len(errors)
    return value if math.isfinite(value) else None


def summarise(
    model: VAE,
    dataset: Dataset,
    settings: FullSettings,
    seed: int,
    about: dict[str, str],
    found: dict[str, Arrays],
) -> dict[str, Any]:
    sampled = found["importance"]
    factor, reason = bits_per_dim(model, dataset)
    measure = measure_of(model.likelihood, not dataset.pseudo_likelihood)
    limit = reliable_pareto_k(settings.samples)
    tail = sampled["pareto_k"]
    terms = ("elbo", "log_likelihood", "kl", "log_prior", "log_base", "ladj", "iw_bound")
    summary: dict[str, Any] = {
        "data": dataset.name,
        "binarization": dataset.binarization,
        "split": "test",
        "measure": measure,
        "pseudo_likelihood": measure == "pseudo-likelihood",
        "conditional": model.condition is not None,
        "missing_not_at_random": model.missingness is not None,
        "unit": "nats per datum, mean and standard error over the data",
        "bits_per_dim": {"factor": factor, "because": reason},
        "settings": asdict(settings),
        "seed": seed,
        "digests": about,
        "importance": {
            "count": len(tail),
            "samples": settings.samples,
            **{name: pair(sampled[name]) for name in terms},
            "elbo_monte_carlo_error": _root_mean(sampled["elbo_error"]),
            "iw_bound_monte_carlo_error": _root_mean(sampled["iw_error"]),
            "median_ess": sampled["ess"].median().item(),
            "pareto_k_limit": limit,
            "share_above_limit": share_above(tail, settings.samples),
        },
    }
    summary["checks"] = _checks(found)
    if "mixture" in found:
        mixed = found["mixture"]
        summary["mixture"] = {
            "count": len(mixed["bound"]),
            "bound": pair(mixed["bound"]),
            "monte_carlo_error": _root_mean(mixed["error"]),
            "median_ess": mixed["ess"].median().item(),
            "share_above_limit": share_above(mixed["pareto_k"], settings.samples),
        }
    if "quadrature" in found:
        exact = found["quadrature"]
        summary["quadrature"] = {
            "count": len(exact["log_prob"]),
            "log_prob": pair(exact["log_prob"]),
            "largest_error": exact["error"].max().item(),
        }
        if "kl" in exact:
            summary["quadrature"]["kl_to_true_posterior"] = pair(exact["kl"])
    refined = found["refined"]
    summary["refined"] = {
        "count": len(refined["elbo"]),
        "steps": settings.refine_steps,
        "elbo": pair(refined["elbo"]),
        "elbo_monte_carlo_error": _root_mean(refined["elbo_error"]),
        "iw_bound": pair(refined["iw_bound"]),
    }
    if "kl" in refined:
        summary["refined"]["kl_to_true_posterior"] = pair(refined["kl"])
        summary["refined"]["largest_kl"] = refined["kl"].max().item()
    annealed, sides = found["ais"], found["bdmc"]
    summary["ais"] = {
        "count": len(annealed["log_prob"]),
        "log_prob": pair(annealed["log_prob"]),
        "monte_carlo_error": _root_mean(annealed["standard_error"]),
        "acceptance": annealed["acceptance"].mean().item(),
        "median_ess": annealed["ess"].median().item(),
    }
    summary["bdmc"] = {
        "count": len(sides["lower"]),
        "lower": pair(sides["lower"]),
        "upper": pair(sides["upper"]),
        "gap": pair(sides["upper"] - sides["lower"]),
    }
    summary["gaps"] = _gaps(found)
    if "information" in found:
        summary["information"] = _information(found["information"], settings, dataset)
    return summary


def _checks(found: dict[str, Arrays]) -> dict[str, Any]:
    """Two methods on the same data: mean paired differences."""
    estimates = {"importance": found["importance"]["iw_bound"], "ais": found["ais"]["log_prob"]}
    if "mixture" in found:
        estimates["mixture"] = found["mixture"]["bound"]
    if "quadrature" in found:
        estimates["quadrature"] = found["quadrature"]["log_prob"]
    names, checks = list(estimates), {}
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            n = min(len(estimates[first]), len(estimates[second]))
            difference = estimates[first][:n] - estimates[second][:n]
            checks[f"{first} - {second}"] = {"count": n, **pair(difference)}
    exact = found.get("quadrature", {})
    if "kl" in exact:
        n = min(len(exact["kl"]), len(found["importance"]["elbo"]))
        rest = found["importance"]["elbo"][:n] + exact["kl"][:n] - exact["log_prob"][:n]
        checks["elbo + kl - quadrature"] = {"count": n, **pair(rest)}
    return checks


def _gaps(found: dict[str, Arrays]) -> dict[str, Any]:
    """The split of the gap. log p(x) is the first method's that has the datum.

    Never the largest of several: the largest of noisy bounds lies above the truth.
    """
    gaps = found["gaps"]
    n = len(gaps["elbo"])
    best, error = gaps["log_prob"].clone(), gaps["log_prob_error"].clone()
    by = "importance sampling around the fitted q"
    for part, name in (("mixture", "importance sampling beyond q"), ("quadrature", "quadrature")):
        if part not in found:
            continue
        values = found[part]["bound" if part == "mixture" else "log_prob"][:n]
        best[: len(values)], error[: len(values)] = values, found[part]["error"][:n]
        by = name if len(values) == n else f"{name} for {len(values)}, else {by}"
    return {
        "count": n,
        "log_prob_by": by,
        "log_prob": pair(best),
        "log_prob_monte_carlo_error": _root_mean(error),
        "elbo": pair(gaps["elbo"]),
        "inference_gap": pair(best - gaps["elbo"]),
        "approximation_gap": pair(best - gaps["fitted_elbo"]),
        "amortization_gap": pair(gaps["fitted_elbo"] - gaps["elbo"]),
    }


def _information(arrays: Arrays, settings: FullSettings, dataset: Dataset) -> dict[str, Any]:
    n = min(settings.information_count, len(dataset.test))
    variance = arrays["unit_variance"][0]
    summary: dict[str, Any] = {
        "count": n,
        "active_units": int((variance > 0.01).sum()),
        "unit_variance": variance.tolist(),
        "largest_mutual_information": math.log(n),
    }
    for name in ("kl", "mutual_information", "marginal_kl"):
        if name in arrays:
            mean, error = arrays[name][0].tolist()
            summary[name] = {"mean": mean, "standard_error": error}
    return summary

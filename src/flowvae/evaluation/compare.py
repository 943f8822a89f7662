"""Runs beside each other, on the same test data and datum by datum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from flowvae.data.columns import condition_in_words
from flowvae.errors import UserError
from flowvae.evaluation.cached import Arrays, data_digest
from flowvae.evaluation.importance import reliable_pareto_k, share_above
from flowvae.evaluation.markdown import PSEUDO, notes, plus_minus, share, table
from flowvae.evaluation.summary import bits_per_dim, pair

if TYPE_CHECKING:
    from pathlib import Path

    from flowvae.config import Config
    from flowvae.data import Dataset
    from flowvae.vae import VAE

__all__ = ["Comparison", "check_comparable", "compare_values"]


@runtime_checkable
class Compared(Protocol):
    """What a run needs to be compared, see :class:`flowvae.Run`."""

    path: Path
    config: Config
    model: VAE

    @property
    def dataset(self) -> Dataset: ...
    @property
    def measure(self) -> str: ...
    @property
    def pseudo_likelihood(self) -> bool: ...


_COMPARED = ("elbo", "iw_bound", "kl")


@dataclass(frozen=True)
class Comparison:
    """What :func:`flowvae.compare` found.

    Args:
        summary: what is written as JSON: for each run its means, and its differences from the
            first run, paired by datum.
        per_datum: for each run, name -> (N,), in nats.
    """

    summary: dict[str, Any]
    per_datum: list[Arrays] = field(repr=False)

    def to_markdown(self) -> str:
        """One table."""
        found = self.summary
        name = "pseudo-" if found["pseudo_likelihood"] else ""
        S = found["samples"]
        rows = []
        for i, run in enumerate(found["runs"]):
            difference = run["difference"]["iw_bound"]
            bits = run["iw_bound_bits_per_dim"]
            rows.append(
                [
                    run["name"],
                    plus_minus(run["elbo"], 2),
                    plus_minus(run["iw_bound"], 2),
                    "first" if not i else plus_minus(difference, 2),
                    "" if bits is None else f"{bits:.4f}",
                    plus_minus(run["kl"], 2),
                    share(run["share_above_limit"]),
                ]
            )
        header = [
            "run",
            f"{name}ELBO",
            f"{name}log p(x)",
            "minus the first's",
            "bits/dim",
            "KL(q ‖ p(z))",
            f"k̂ > {found['pareto_k_limit']:.2f}",
        ]
        lines = [
            table(header, rows),
            f"{found['count']:,} test data of {found['data']}, binarization "
            f"{found['binarization']}; nats per datum, mean ± standard error over the data, {S:,} "
            "importance samples; differences paired by datum. Where k̂ is large, log p(x) is likely "
            "to be higher than shown, and more samples show more of it.",
        ]
        if found["pseudo_likelihood"]:
            lines.append(PSEUDO)
        lines += notes(found)
        return "\n\n".join(lines) + "\n"


def _condition_of(dataset: Dataset) -> str:
    """What log p(x) is given: log p(x|y) and log p(x) are not the same thing."""
    return "none" if dataset.condition is None else condition_in_words(dataset.condition)


def check_comparable(runs: Sequence[Compared]) -> None:
    """Refuse runs whose figures cannot be compared.

    Raises:
        UserError: fewer than two runs; or another data set, binarization, split, or kind of
            likelihood than the first run's: the reason in one line.
    """
    if len(runs) < 2:
        raise UserError(f"compare: expected at least 2 runs, got {len(runs)}")
    first, digest = runs[0], data_digest(runs[0].dataset.test)
    for run in runs[1:]:
        a, b = first.dataset, run.dataset
        reasons: list[tuple[str, Any, Any]] = [
            ("data", a.name, b.name),
            ("shape", a.data_shape, b.data_shape),
            ("binarization", a.binarization, b.binarization),
            ("condition", _condition_of(a), _condition_of(b)),
            ("missingness", first.config.model.missingness, run.config.model.missingness),
            ("number of test data", len(a.test), len(b.test)),
            ("test_fraction", first.config.data.test_fraction, run.config.data.test_fraction),
        ]
        same_values = data_digest(b.test) == digest
        for what, mine, other in reasons:
            # Two paths may lead to the same data, and a fraction matters only where it splits.
            if mine != other and not (same_values and what in ("data", "test_fraction")):
                raise UserError(
                    f"compare: {run.path} and {first.path} differ in {what}: {other} and {mine}; "
                    "their figures cannot be compared"
                )
        if not same_values:
            raise UserError(
                f"compare: {run.path} and {first.path} were tested on different splits of "
                f"{a.name} (seeds {run.config.seed} and {first.config.seed}); their figures "
                "cannot be compared"
            )
        if first.measure != run.measure:
            raise UserError(
                f"compare: log p(x) is a {run.measure} in {run.path} and a {first.measure} in "
                f"{first.path}; their figures cannot be compared"
            )


def compare_values(runs: Sequence[Compared], values: Sequence[Arrays], samples: int) -> Comparison:
    """Means of every run, and differences from the first one, paired by datum."""
    limit = reliable_pareto_k(samples)
    factor, _ = bits_per_dim(runs[0].model, runs[0].dataset)
    rows = []
    for name, run, found in zip(_names(runs), runs, values, strict=True):
        config, posterior = run.config, run.config.model.posterior
        rows.append(
            {
                "name": name,
                "path": str(run.path),
                "posterior": posterior.name,
                "latent_dim": config.model.latent_dim,
                "num_flows": posterior.options().get("num_flows"),
                "seed": config.seed,
                **{each: pair(found[each]) for each in _COMPARED},
                "iw_bound_bits_per_dim": None
                if factor is None
                else factor * found["iw_bound"].mean().item(),
                "share_above_limit": share_above(found["pareto_k"], samples),
                "difference": {
                    each: pair(found[each] - values[0][each]) for each in ("elbo", "iw_bound")
                },
            }
        )
    dataset = runs[0].dataset
    summary = {
        "data": dataset.name,
        "binarization": dataset.binarization,
        "split": "test",
        "measure": runs[0].measure,
        "pseudo_likelihood": runs[0].pseudo_likelihood,
        "conditional": dataset.condition is not None,
        "missing_not_at_random": runs[0].config.model.missingness != "at_random",
        "unit": "nats per datum, mean and standard error over the data",
        "samples": samples,
        "count": len(values[0]["elbo"]),
        "pareto_k_limit": limit,
        "digest": data_digest(dataset.test),
        "runs": rows,
    }
    return Comparison(summary, list(values))


def _names(runs: Sequence[Compared]) -> list[str]:
    """Folder names, with as much of the path before them as tells them apart."""
    parts = [run.path.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(run.path) for run in runs]

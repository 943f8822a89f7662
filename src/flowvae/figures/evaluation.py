"""Pictures of an evaluation, and of runs beside each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from flowvae.evaluation.compare import Comparison
from flowvae.evaluation.full import FullEvaluation
from flowvae.figures.style import BLUE, DENSITY, ORANGE, new_figure, plain
from flowvae.vae import VAE

__all__ = ["comparison_figure", "evaluation_figure"]

_MOST_UNITS = 8
_MOST_CONDITIONS = 100


@torch.no_grad()
def evaluation_figure(
    evaluation: FullEvaluation, model: VAE, z: Tensor, condition: Tensor | None = None
) -> Figure:
    """Four panels: each method's log p(x), the inference gap, the reliability of the weights, and
    the aggregate posterior beside the prior.

    Args:
        evaluation: all of it.
        model: for its prior.
        z: one draw z ~ q(z|x) for each of many data, (N, D).
        condition: of these data, encoded, (N, C), if the model has one: the prior is then the mean
            of p(z|y) over them.
    """
    summary = evaluation.summary
    figure = new_figure(11, 8.2)
    axes = figure.subplots(2, 2)
    _methods(axes[0, 0], evaluation)
    _gaps(axes[0, 1], summary)
    _reliability(axes[1, 0], evaluation)
    _aggregate(axes[1, 1], model, z, condition)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
    name = "pseudo-likelihoods of grey pixels" if summary["pseudo_likelihood"] else "test data"
    figure.suptitle(f"{plain(summary['data'])}, binarization {summary['binarization']}: {name}")
    return figure


def _prefix(summary: dict[str, Any]) -> str:
    return "pseudo-" if summary["pseudo_likelihood"] else ""


def _methods(panel: Axes, evaluation: FullEvaluation) -> None:
    """Every method on the data that all of them saw."""
    found = evaluation.per_datum
    columns = {
        "ELBO": found["importance"]["elbo"],
        "importance": found["importance"]["iw_bound"],
        "annealing": found["ais"]["log_prob"],
    }
    if "mixture" in found:
        columns["mixture"] = found["mixture"]["bound"]
    if "quadrature" in found:
        columns["quadrature"] = found["quadrature"]["log_prob"]
    n = min(map(len, columns.values()))
    means = np.array([values[:n].mean().item() for values in columns.values()])
    # What varies between methods is their difference on the same data.
    reference = list(columns.values())[-1][:n]
    errors = [
        (values[:n] - reference).std().item() / max(n, 2) ** 0.5 if n > 1 else 0.0
        for values in columns.values()
    ]
    places = range(len(columns))
    panel.errorbar(means, list(places), xerr=errors, fmt="o", color=BLUE, capsize=4)
    for place, mean in zip(places, means, strict=True):
        text = f"{mean:.2f}"
        panel.annotate(text, (mean, place), (0, 8), textcoords="offset points", ha="center")
    panel.set_yticks(list(places), list(columns))
    panel.margins(x=0.2, y=0.25)
    panel.locator_params(axis="x", nbins=6)
    panel.invert_yaxis()
    panel.set(
        xlabel="nats per datum",
        title=f"{_prefix(evaluation.summary)}log p(x) on the same {n} data\n"
        f"(bars: standard error of the difference from {list(columns)[-1]})",
    )


def _gaps(panel: Axes, summary: dict[str, Any]) -> None:
    gaps = summary["gaps"]
    names = {"approximation_gap": "approximation\n(the family)"}
    names["amortization_gap"] = "amortization\n(the encoder)"
    shown = [gaps[name] for name in names]
    panel.bar(
        list(names.values()),
        [value["mean"] for value in shown],
        yerr=[value["standard_error"] or 0.0 for value in shown],
        color=[BLUE, ORANGE],
        capsize=4,
        width=0.5,
    )
    panel.set(
        ylabel="nats per datum",
        title=f"From {_prefix(summary)}log p(x) down to the {_prefix(summary)}ELBO: "
        f"{gaps['inference_gap']['mean']:.2f} nats\n({gaps['count']} data)",
    )


def _reliability(panel: Axes, evaluation: FullEvaluation) -> None:
    """How far importance sampling is off, against the tail of its weights."""
    found, summary = evaluation.per_datum, evaluation.summary
    exact = "quadrature" if "quadrature" in found else "ais"
    n = min(len(found[exact]["log_prob"]), len(found["importance"]["iw_bound"]))
    tail = found["importance"]["pareto_k"][:n].clamp(min=-0.5)
    off = found["importance"]["iw_bound"][:n] - found[exact]["log_prob"][:n]
    panel.scatter(tail, off, s=7, color=BLUE, alpha=0.6, linewidths=0)
    panel.set_yscale("symlog", linthresh=0.1)
    limit = summary["importance"]["pareto_k_limit"]
    panel.axvline(limit, color=ORANGE, linestyle="--")
    panel.axhline(0, color="black", linewidth=0.5)
    panel.annotate(
        f" k̂ = {limit:.2f}", (limit, 1), xycoords=("data", "axes fraction"), va="top", color=ORANGE
    )
    name = "quadrature" if exact == "quadrature" else "annealing"
    panel.set(
        xlabel="k̂ of the weights",
        ylabel=f"importance sampling − {name}, nats",
        title=f"Reliability of the weights ({n} data)",
    )


def _aggregate(panel: Axes, model: VAE, z: Tensor, condition: Tensor | None) -> None:
    """q(z) over the data against p(z)."""
    if model.latent_dim == 2:
        _aggregate_plane(panel, model, z, condition)
        return
    generator = torch.Generator(next(model.parameters()).device).manual_seed(0)
    prior = model.draw_prior(len(z), generator, condition)[0].cpu().numpy()
    # The dimensions that carry most: farthest from the prior's spread about its mean.
    order = np.argsort(-np.abs(np.log(z.numpy().std(0) / prior.std(0))))[:_MOST_UNITS]
    for place, d in enumerate(order):
        for side, values, color in ((-1, z[:, d].numpy(), BLUE), (1, prior[:, d], ORANGE)):
            violin = panel.violinplot(values, [place], widths=0.9, showextrema=False)
            for body in violin["bodies"]:  # pyright: ignore
                path = body.get_paths()[0].vertices
                path[:, 0] = np.clip(path[:, 0], *((-9, place) if side < 0 else (place, 99)))
                body.set(facecolor=color, alpha=0.7)
    panel.set_xticks(range(len(order)), [f"z$_{{{d + 1}}}$" for d in order])
    panel.set_title("Aggregate posterior (left, blue)\nbeside the prior (right, orange)")


def _aggregate_plane(panel: Axes, model: VAE, z: Tensor, condition: Tensor | None) -> None:
    parameter = next(model.parameters())
    low, high = z.min(0).values, z.max(0).values
    low, high = torch.minimum(low, -high.abs()), torch.maximum(high, low.abs())
    panel.hist2d(*z.numpy().T, bins=80, cmap=DENSITY, density=True)
    axes = [torch.linspace(float(low[d]), float(high[d]), 121) for d in range(2)]
    mesh = torch.stack(torch.meshgrid(*axes, indexing="xy"), -1).to(parameter)
    density = _prior_density(model, mesh, condition).cpu().numpy()
    levels = density.max() * np.exp(-0.5 * np.array([3.0, 2.0, 1.0]) ** 2)
    panel.contour(*(axis.numpy() for axis in axes), density, levels=levels, colors=ORANGE)
    panel.set_facecolor("#440154")
    panel.set(
        xlabel="z₁",
        ylabel="z₂",
        title="Aggregate posterior, and the prior in orange\n(e^-½, e^-2 and e^-4.5 of its peak)",
    )


def _prior_density(model: VAE, z: Tensor, condition: Tensor | None) -> Tensor:
    """p(z), or the mean of p(z|y) over conditions, of many some evenly over them."""
    if condition is None:
        return model.prior_given(None).log_prob(z).exp()
    every, counts = condition.unique(dim=0, return_counts=True)
    some = torch.linspace(0, len(every) - 1, min(len(every), _MOST_CONDITIONS)).round().long()
    weights = counts[some] / counts[some].sum()
    parts = zip(every[some].to(z), weights.tolist(), strict=True)
    return sum((w * model.prior_given(y).log_prob(z).exp() for y, w in parts), z.new_zeros(()))


def comparison_figure(comparison: Comparison) -> Figure:
    """ELBO and log p(x) of every run, and the differences from the first one."""
    summary = comparison.summary
    runs, name = summary["runs"], _prefix(summary)
    figure = new_figure(11, 1.8 + 0.45 * len(runs))
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(runs))
    bound = f"{name}log p(x), {summary['samples']} samples"
    kinds = (("elbo", f"{name}ELBO", BLUE, -0.08), ("iw_bound", bound, ORANGE, 0.08))
    for key, label, color, shift in kinds:
        for panel, values in (
            (left, [run[key] for run in runs]),
            (right, [run["difference"][key] for run in runs]),
        ):
            panel.errorbar(
                [value["mean"] for value in values],
                places + shift,
                xerr=[1.96 * (value["standard_error"] or 0.0) for value in values],
                fmt="o" if key == "elbo" else "s",
                color=color,
                capsize=3,
                label=label,
            )
    right.axvline(0, color="black", linewidth=0.5)
    left.set_yticks(places, [plain(run["name"]) for run in runs])
    left.invert_yaxis()
    left.margins(y=0.2)
    left.set(xlabel="nats per datum", title=f"{summary['count']:,} test data, 95% intervals")
    right.set(xlabel="nats per datum", title="Minus the first run's, paired by datum, 95%")
    right.legend(frameon=False, loc="best")
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3, axis="x")
    if summary["pseudo_likelihood"]:
        figure.suptitle("Grey pixels: every figure is a pseudo-likelihood")
    return figure

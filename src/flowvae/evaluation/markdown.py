"""Evaluations as Markdown, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["PSEUDO", "full_markdown", "notes", "on_screen", "plus_minus", "share", "table"]

PSEUDO = (
    "Grey pixels: log p(x|z) is a pseudo-likelihood; never compare it with results on binary "
    "pixels."
)


def share(value: float | None) -> str:
    """A share in percent, or a dash where there is none."""
    return "–" if value is None else f"{value:.1%}"


def plus_minus(value: dict[str, Any], digits: int = 3) -> str:
    """Mean ± standard error."""
    error = value["standard_error"]
    shown = f"{value['mean']:.{digits}f}"
    return shown if error is None else f"{shown} ± {error:.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns of even width; a bar in a cell does not end it."""
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    shown = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([shown[0], rule, *shown[1:]])


_CONDITIONAL = (
    "The model is conditional: all of it is given each datum's own condition y, so log p(x) is "
    "log p(x|y), q(z|x) is q(z|x, y) and p(z) is p(z|y)."
)

_NOT_AT_RANDOM = (
    "The model says why values are missing: log p(x) is log p(x_obs, s), s which values are there."
)


def notes(summary: dict[str, Any]) -> list[str]:
    """What log p(x) is of, where it is of more or less than x."""
    found = {"conditional": _CONDITIONAL, "missing_not_at_random": _NOT_AT_RANDOM}
    return [note for what, note in found.items() if summary.get(what)]


def on_screen(text: str) -> str:
    """Markdown without what a terminal would show as it stands."""
    return text.replace(r"\|", "|").replace("**", "")


def full_markdown(summary: dict[str, Any], title: str) -> str:
    """The report of ``flowvae evaluate --full``."""
    pseudo = summary["pseudo_likelihood"]
    factor = summary["bits_per_dim"]["factor"]
    name = "pseudo-" if pseudo else ""
    sampled = summary["importance"]
    S = sampled["samples"]

    def row(label: str, value: dict[str, Any], count: int, note: str = "") -> list[str]:
        bits = "" if factor is None else f"{factor * value['mean']:.4f}"
        return [label, plus_minus(value), bits, f"{count:,}", note]

    n = sampled["count"]
    rows = [
        row(f"{name}ELBO", sampled["elbo"], n),
        row("  E log p(x|z)", sampled["log_likelihood"], n),
        [*row("  KL(q(z|x) ‖ p(z))", sampled["kl"], n)[:2], "", f"{n:,}", ""],
        row(
            f"{name}log p(x), {S:,} importance samples",
            sampled["iw_bound"],
            n,
            f"median ESS {sampled['median_ess']:.0f}; k̂ > {sampled['pareto_k_limit']:.2f} "
            f"for {share(sampled['share_above_limit'])}",
        ),
    ]
    if mixed := summary.get("mixture"):
        label = f"{name}log p(x), {S:,} from a mixture"
        note = f"median ESS {mixed['median_ess']:.0f}; k̂ too large for "
        note += share(mixed["share_above_limit"])
        rows.append(row(label, mixed["bound"], mixed["count"], note))
    if exact := summary.get("quadrature"):
        note = f"to {exact['largest_error']:.1e}"
        rows.append(row(f"{name}log p(x), quadrature", exact["log_prob"], exact["count"], note))
    annealed = summary["ais"]
    note = f"acceptance {annealed['acceptance']:.2f}; median ESS {annealed['median_ess']:.1f}"
    rows.append(row(f"{name}log p(x), annealing", annealed["log_prob"], annealed["count"], note))
    lines = [
        f"# Evaluation of {title}",
        f"{summary['data']}, {summary['split']} data, binarization {summary['binarization']}; "
        "nats per datum, mean ± standard error over the data.",
        *([f"**{PSEUDO}**"] if pseudo else []),
        *notes(summary),
        table(["", "nats", "bits/dim", "data", ""], rows),
        f"Bits per dimension: {summary['bits_per_dim']['because']}.",
        "## Agreement of the methods",
        "Mean differences on the same data. Importance sampling is too low where its weights have "
        "a heavy tail (large k̂), and where q misses a mode, which does not show in the weights. "
        "The mixture draws a quarter of its samples around the prior's best draws.",
        table(
            ["", "nats", "data"],
            [
                [label, plus_minus(value), f"{value['count']:,}"]
                for label, value in summary["checks"].items()
            ],
        ),
        _sandwich(summary["bdmc"]),
        "## The inference gap",
        _where(summary["gaps"], name),
        _nearer(summary, name),
    ]
    if found := summary.get("information"):
        lines += ["## Information in z", _carried(found)]
    return "\n\n".join(lines) + "\n"


def _sandwich(found: dict[str, Any]) -> str:
    return (
        f"On {found['count']:,} data simulated from the model, log p(x) lies between "
        f"{plus_minus(found['lower'])} and {plus_minus(found['upper'])}, by annealing from both "
        f"sides: {plus_minus(found['gap'])} apart."
    )


def _where(gaps: dict[str, Any], name: str) -> str:
    rows = [
        [f"{name}log p(x)", plus_minus(gaps["log_prob"]), f"by {gaps['log_prob_by']}"],
        [
            "− approximation gap",
            plus_minus(gaps["approximation_gap"]),
            "log p(x) minus the ELBO of the best q of the family for each datum",
        ],
        [
            "− amortization gap",
            plus_minus(gaps["amortization_gap"]),
            "from there to the ELBO of the encoder's q",
        ],
        [f"= {name}ELBO", plus_minus(gaps["elbo"]), f"{gaps['count']:,} data"],
    ]
    return table(["", "nats", ""], rows)


def _nearer(summary: dict[str, Any], name: str) -> str:
    found = summary["refined"]
    steps = f"{found['steps']} step{'s' if found['steps'] > 1 else ''}"
    text = (
        f"With q refined for each datum, by {steps} from the encoder's answer, the {name}ELBO is "
        f"{plus_minus(found['elbo'])} on {found['count']:,} data"
    )
    if "kl_to_true_posterior" not in found:
        return text + "."
    before = summary["quadrature"].get("kl_to_true_posterior")
    encoder = "" if before is None else f", and that of the encoder's q {plus_minus(before)}"
    return (
        f"{text}. Its KL(q ‖ p(z|x)) is {plus_minus(found['kl_to_true_posterior'])} by quadrature, "
        f"at most {found['largest_kl']:.3f}{encoder}."
    )


def _carried(found: dict[str, Any]) -> str:
    lines = []
    if "mutual_information" in found:
        rows = [
            ["KL(q(z|x) ‖ p(z))", plus_minus(found["kl"])],
            ["= mutual information of x and z", plus_minus(found["mutual_information"])],
            ["+ KL(q(z) ‖ p(z)), marginal", plus_minus(found["marginal_kl"])],
        ]
        lines.append(table(["", "nats"], rows))
        lines.append(
            f"Over {found['count']:,} data, which bounds the information by "
            f"{found['largest_mutual_information']:.2f}; errors are those of the draws of z."
        )
    D = len(found["unit_variance"])
    lines.append(f"Active units: {found['active_units']} of {D}, Var(E[z_d|x]) > 0.01.")
    return "\n\n".join(lines)

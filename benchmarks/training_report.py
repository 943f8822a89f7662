"""Tables, verdicts and the plot of :mod:`benchmarks.training`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

# epoch: at least so many times as fast; step: at most so many times its floor; flow: at most so
# much of a step.
CPU = {"epoch": {"float32": 4.0, "bfloat16": 6.0}, "step": {"float32": 1.25, "bfloat16": 2.5}}
CUDA = {"epoch": {"float32": 100.0}, "hundred": 10.0}
OF_A_STEP = 0.1
ADDED_AT = [(2, 3), (2, 16), (40, 16), (40, 80)]


def targets(found: dict[str, Any], device: str) -> list[dict[str, Any]]:
    """What was aimed at, what was measured, and whether that meets it."""
    rows: list[tuple[str, str, bool]] = []
    aims: dict[str, Any] = CPU if device == "cpu" else CUDA
    for precision, aim in aims["epoch"].items():
        ratio = found["epoch"][precision]["ratio"]
        rows.append(
            (
                f"epoch, {precision}: at least {aim:g}× as fast as the script",
                f"{ratio:.1f}×",
                ratio >= aim,
            )
        )
    if "hundred" in aims:
        seconds = found["epoch"]["float32"]["median_ms"] / 10
        rows.append(
            (
                f"100 epochs in under {aims['hundred']:g} s",
                f"{seconds:.1f} s",
                seconds < aims["hundred"],
            )
        )
    for precision, aim in aims.get("step", {}).items():
        ratio = found["step"][f"{precision} step"]["ratio"]
        rows.append(
            (f"step, {precision}: at most {aim:g}× its floor", f"{ratio:.2f}×", ratio <= aim)
        )
    for row in found["flow"]:
        if (row["D"], row["K"]) in ADDED_AT and device == "cpu":
            share = row["added_share"]
            rows.append(
                (
                    f"flow at D = {row['D']}, K = {row['K']}: at most {OF_A_STEP:.0%} of a step",
                    f"{share:.0%}",
                    share <= OF_A_STEP,
                )
            )
    return [{"target": aim, "measured": text, "met": met} for aim, text, met in rows]


def _ms(row: dict[str, float], digits: int = 2) -> str:
    return f"{row['median_ms']:.{digits}f} ± {row['se_ms']:.{digits}f}"


def tables(found: dict[str, Any]) -> str:
    lines = ["| one epoch of MNIST, preset original | ms | times as fast |", "|---|---|---|"]
    for name, row in found["epoch"].items():
        ratio = f"{row['ratio']:.2f} ± {row['ratio_se']:.2f}"
        lines.append(f"| {name} | {_ms(row, 0)} | {ratio} |")
    lines += ["", "| one step | ms | floor, ms | ratio |", "|---|---|---|---|"]
    for name, row in found["step"].items():
        precision, kind = name.split(maxsplit=1)
        if kind != "floor":
            low = found["step"][f"{precision} floor"]
            ratio = f"{row['ratio']:.3f} ± {row['ratio_se']:.3f}"
            lines.append(f"| {precision} | {_ms(row)} | {_ms(low)} | {ratio} |")
    lines += ["", "| D | K | step, ms | its floor, ms | the flow adds |", "|---|---|---|---|---|"]
    for row in found["flow"]:
        share = f"{row['added_share']:.0%} ± {row['added_se']:.0%}" if row["K"] else "–"
        lines.append(
            f"| {row['D']} | {row['K']} | {_ms(row['step'])} | {_ms(row['floor'])} | {share} |"
        )
    lines += [
        "",
        "| batch | data | epoch, s | µs a datum | peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for row in found["growth"]:
        micros = 1e6 * row["seconds"] / row["data"]
        lines.append(
            f"| {row['batch']} | {row['data']:,} | {row['seconds']:.2f} | {micros:.1f} | "
            f"{row['peak_bytes'] / 2**20:.0f} |"
        )
    lines += ["", "| target | measured |  |", "|---|---|---|"]
    for row in found["targets"]:
        lines.append(
            f"| {row['target']} | {row['measured']} | {'met' if row['met'] else 'missed'} |"
        )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines += [
        "",
        f"Medians ± standard error over {found['rounds']} rounds (epochs) or more (steps); "
        "a ratio is the median of the rounds' ratios. "
        f"{found['machine']}, {found['threads']} threads, {versions}, {found['date']}. Seed 0. "
        "Made by `make bench`.",
    ]
    return "\n".join(lines)


def plot(found: dict[str, Any], file: Path) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = found["flow"]
    names = [f"D={row['D']}\nK={row['K']}" for row in rows]
    for offset, key, colour in ((-0.2, "step", "#0072B2"), (0.2, "floor", "#56B4E9")):
        at = [i + offset for i in range(len(rows))]
        left.bar(at, [row[key]["median_ms"] for row in rows], 0.4, color=colour, label=key)
    left.set_xticks(range(len(rows)), names)
    left.set_ylabel("ms a step")
    left.legend(frameon=False)
    largest = max(row["data"] for row in found["growth"])
    some = [row for row in found["growth"] if row["data"] == largest]
    right.plot(
        [r["batch"] for r in some],
        [1e6 * r["seconds"] / r["data"] for r in some],
        "o-",
        color="#0072B2",
    )
    right.set_xscale("log")
    right.set_ylim(bottom=0)
    right.set_xlabel("batch size")
    right.set_ylabel("µs a datum")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)

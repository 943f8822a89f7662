"""How fast the planar flow is, beside other implementations and beside the memory's limit.

    python -m benchmarks.planar [--quick] [--rounds N] [--threads N] [--device cpu|cuda]

Medians of forward and of forward + backward (gradients of all four inputs) in float32, every rival
of ``benchmarks/rivals.py`` in turn in each round, so that noise hits all alike. A rival that does
not agree with ``planar_flow`` is not measured. The figures go to ``docs/results/planar.json``, the
tables into ``docs/benchmarks.md``, the plot to ``docs/images/planar-bench.png``; with ``--quick``,
which is to see that this program works, to ``runs/bench-quick`` instead. ``--device cuda``
compares with the loop and with a copy on the device, and replaces its own table only.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.report import replace_between
from benchmarks.rivals import RIVALS, Call, Case, Rival, build, disagreement
from flowvae.device import machine

ROOT = Path(__file__).parents[1]
MODES = {"forward": "forward", "both": "forward + backward"}
CASES = [
    Case((100,), (100,), 3, 2),
    Case((100,), (100,), 16, 40),
    Case((100,), (100,), 80, 40),
    Case((1000,), (1000,), 80, 40),
    Case((256,), (256,), 16, 64),
    Case((5000, 64), (64,), 16, 2),
]
SMALL, MIDDLE, DEEP, LARGE = CASES[:4]
ON_CUDA = Case((65536,), (65536,), 16, 64)
# Forward + backward: at least so many times as fast as a rival, ...
FASTER = [
    (DEEP, "loop", 40.0),
    (MIDDLE, "loop", 12.0),
    (SMALL, "loop", 3.5),
    (DEEP, "JAX scan", 3.0),
    (LARGE, "JAX scan", 5.0),
]
OF_LIMIT = (LARGE, 2.0)  # ... at most so many times the limit, ...
ABSOLUTE = (SMALL, 150.0)  # ... and at most so many µs.
VERDICTS = {True: ("PASS", "met"), False: ("MISS", "missed"), None: ("SKIP", "–")}
PACKAGES = ["torch", "numpy", "numba", "jax", "jaxlib", "pyro-ppl", "flowjax"]
# Okabe and Ito's colours, told apart with every kind of colour vision
COLOURS = ["#0072B2", "#56B4E9", "#E69F00", "#009E73", "#D55E00", "#CC79A7"]

Clock = Callable[[Call, int], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few short measurements, kept apart")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--docs", type=Path, help="the folder to write to instead of docs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rounds = options.rounds or (3 if options.quick else 15)
    least = 0.002 if options.quick else 0.02
    docs = options.docs or (ROOT / "runs" / "bench-quick" if options.quick else ROOT / "docs")
    if options.device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("--device cuda: nothing measured, torch finds no CUDA device")
        _publish(_on_cuda(rounds, least), docs, "planar-cuda", _cuda_table)
        return

    found = _heading(options.threads, machine()) | {"rounds": rounds}
    found["bandwidth"] = bandwidth("cpu", _seconds)
    found["cases"] = [_case(case, found["bandwidth"], rounds, least) for case in CASES]
    found["load"] = _under_load(DEEP, rounds, least)
    found["targets"] = targets(found)
    _publish(found, docs, "planar", _tables)
    _plot(found, docs / "images" / "planar-bench.png")
    for row in found["targets"]:
        print(VERDICTS[row["met"]][0], row["target"], "-", row["measured"])


def _heading(threads: int, where: str) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    today = date.today().isoformat()
    return {"date": today, "machine": where, "threads": threads, "versions": versions}


# ---------------------------------------------------------------- measuring


def _seconds(call: Call, n: int) -> float:
    start = time.perf_counter()
    for _ in range(n):
        call()
    return (time.perf_counter() - start) / n


def _cuda_seconds(call: Call, n: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(n):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / n


def measure(
    calls: dict[Any, Call], rounds: int, least: float, clock: Clock = _seconds
) -> dict[Any, dict[str, float]]:
    """Median and interquartile range in ms of each call, all of them in turn in every round.

    One figure of a round is the mean over as many calls as take ``least`` seconds.
    """
    repeats, once = {}, {}
    for name, call in calls.items():
        clock(call, 2)  # compiles, and fills caches
        once[name] = clock(call, 1)
        repeats[name] = max(1, math.ceil(least / once[name]))
    times: dict[Any, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            for name, call in calls.items():
                if once[name] > 1 and i >= 3:
                    continue
                if once[name] < least:
                    call()  # what ran before has filled the caches with its own
                times[name].append(1e3 * clock(call, repeats[name]))
    finally:
        gc.enable()
    return {name: _summary(values) for name, values in times.items()}


def _summary(values: list[float]) -> dict[str, float]:
    spread = 0.0
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        spread = high - low
    return {"median_ms": statistics.median(values), "iqr_ms": spread}


def _copy(size: int, device: str) -> Call:
    """A copy that moves ``size`` bytes, half of them read and half of them written."""
    source = torch.ones(size // 8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def bandwidth(device: str, clock: Clock) -> float:
    """Bytes per second, read and written, of the best of ten copies of 256 MiB."""
    size = 2**29
    copy = _copy(size, device)
    clock(copy, 1)
    return size / min(clock(copy, 1) for _ in range(10))


def _case(case: Case, speed: float, rounds: int, least: float) -> dict[str, Any]:
    """All rivals that agree, measured at one shape; and why the others were left out."""
    print(case.name, flush=True)
    mine, rivals, notes = build("planar_flow", case), {}, []
    assert isinstance(mine, Rival)  # noqa: S101 - needs nothing optional
    for name in RIVALS:
        rival = build(name, case)
        why = rival if isinstance(rival, str) else disagreement(mine, rival)
        if isinstance(rival, str) or why:
            notes.append(f"{name}: not measured at {case.name}, {why}")
            print(notes[-1], flush=True)
        else:
            rivals[name] = rival
    if not {"planar_flow", "reference", "loop"} <= rivals.keys():
        raise SystemExit("the implementations in PyTorch must agree")
    calls = {(name, mode): getattr(r, mode) for name, r in rivals.items() for mode in MODES}
    times = measure(calls, rounds, least)
    limit = {mode: 1e3 * case.bytes_moved[mode] / speed for mode in MODES}
    measured = {mode: {name: times[name, mode] for name in rivals} for mode in MODES}
    return {"case": case.name, "limit_ms": limit, "bytes": case.bytes_moved, "notes": notes} | (
        measured
    )


def _under_load(case: Case, rounds: int, least: float) -> dict[str, Any]:
    mine = build("planar_flow", case)
    assert isinstance(mine, Rival)  # noqa: S101 - needs nothing optional
    print(case.name, "beside two busy processes", flush=True)
    alone = measure({"alone": mine.both}, rounds, least)["alone"]
    with _two_busy_processes():
        loaded = measure({"loaded": mine.both}, rounds, least)["loaded"]
    ratio = loaded["median_ms"] / alone["median_ms"]
    return {"case": case.name, "alone": alone, "loaded": loaded, "ratio": ratio}


@contextlib.contextmanager
def _two_busy_processes() -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        time.sleep(0.5)  # until they run
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _on_cuda(rounds: int, least: float) -> dict[str, Any]:
    case, speed = ON_CUDA, bandwidth("cuda", _cuda_seconds)
    mine, loop = build("planar_flow", case, "cuda"), build("loop", case, "cuda")
    assert isinstance(mine, Rival)  # noqa: S101 - needs nothing optional
    assert isinstance(loop, Rival)  # noqa: S101 - neither does this
    if why := disagreement(mine, loop):
        raise SystemExit(f"planar_flow and loop must agree: {why}")
    calls: dict[Any, Call] = {}
    for mode in MODES:
        calls["planar_flow", mode] = getattr(mine, mode)
        calls["loop", mode] = getattr(loop, mode)
        calls["copy", mode] = _copy(case.bytes_moved[mode], "cuda")
    times = measure(calls, rounds, least, _cuda_seconds)
    found = _heading(torch.get_num_threads(), torch.cuda.get_device_name())
    found |= {"rounds": rounds, "bandwidth": speed, "case": case.name, "bytes": case.bytes_moved}
    names = ("planar_flow", "loop", "copy")
    return found | {mode: {name: times[name, mode] for name in names} for mode in MODES}


# ---------------------------------------------------------------- reporting


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What was aimed at for forward + backward, what was measured, and whether that meets it."""
    by_name = {row["case"]: row for row in found["cases"]}

    def time_of(case: Case, rival: str = "planar_flow") -> float:
        return by_name[case.name]["both"].get(rival, {}).get("median_ms", math.nan)

    rows: list[tuple[str, float, str, bool]] = []
    for case, rival, target in FASTER:
        ratio = time_of(case, rival) / time_of(case)
        aim = f"at least {target:g}× as fast as {rival} at {case.name}"
        rows.append((aim, ratio, f"{ratio:.2f}×", ratio >= target))
    case, target = OF_LIMIT
    ratio = time_of(case) / by_name[case.name]["limit_ms"]["both"]
    aim = f"within {target:g}× of the limit at {case.name}"
    rows.append((aim, ratio, f"{ratio:.2f}×", ratio <= target))
    case, target = ABSOLUTE
    micros = 1e3 * time_of(case)
    rows.append(
        (f"under {target:g} µs at {case.name}", micros, f"{micros:.0f} µs", micros < target)
    )
    # A rival that is not installed gives no ratio, which JSON writes as null.
    return [
        {
            "target": aim,
            "value": None if math.isnan(value) else value,
            "measured": "not measured" if math.isnan(value) else text,
            "met": None if math.isnan(value) else met,
        }
        for aim, value, text, met in rows
    ]


def _publish(
    found: dict[str, Any], docs: Path, name: str, table: Callable[[dict[str, Any]], str]
) -> None:
    kept = docs / "results" / f"{name}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    text, page = table(found), docs / "benchmarks.md"
    print(f"\n{text}\n")
    mark = name.replace("planar", "planar-bench")
    if page.exists() and f"<!-- {mark} -->" in page.read_text(encoding="utf-8"):
        replace_between(page, mark, text)


def _tables(found: dict[str, Any]) -> str:
    lines = []
    for mode, title in MODES.items():
        lines += [f"**{title}, ms**", "", _row("", *RIVALS, "limit"), _rule(len(RIVALS) + 2)]
        for row in found["cases"]:
            mine, limit = row[mode]["planar_flow"]["median_ms"], row["limit_ms"][mode]
            cells = [_cell(row[mode].get(name), mine, name != "planar_flow") for name in RIVALS]
            cells.append(f"{_digits(limit)} ({_digits(limit / mine)}×)")
            lines.append(_row(row["case"], *cells))
        lines.append("")
    lines += [_row("target, forward + backward", "measured", ""), _rule(3)]
    for row in found["targets"]:
        lines.append(_row(row["target"], row["measured"], VERDICTS[row["met"]][1]))
    load = found["load"]
    lines += ["", _row("planar_flow, forward + backward", "alone", "two busy processes", "ratio")]
    alone, loaded = (_cell(load[key], 1.0, False) for key in ("alone", "loaded"))
    lines += [_rule(4), _row(load["case"], alone, loaded, f"{load['ratio']:.2f}"), ""]
    lines += [f"{note}." for row in found["cases"] for note in row["notes"]]
    return "\n".join(lines) + _footnote(
        found, "the limit is the bytes that must move through memory, at the bandwidth of a copy"
    )


def _cuda_table(found: dict[str, Any]) -> str:
    names = ("planar_flow", "loop", "copy")
    lines = [_row(f"{found['case']}, ms", *names), _rule(4)]
    for mode, title in MODES.items():
        mine = found[mode]["planar_flow"]["median_ms"]
        cells = [_cell(found[mode][name], mine, name != "planar_flow") for name in names]
        lines.append(_row(title, *cells))
    return "\n".join(lines) + _footnote(
        found, "the copy moves, on the device, the bytes that the flow must move", "make gpu"
    )


def _footnote(found: dict[str, Any], limit: str, made_by: str = "make bench") -> str:
    threads, versions = found["threads"], found["versions"]
    others = ", ".join(f"{name} {versions[name]}" for name in PACKAGES if name in versions)
    return (
        f"\n\nMedian ± half the interquartile range of {found['rounds']} rounds, in brackets the "
        f"ratio to planar_flow; {limit} ({found['bandwidth'] / 1e9:.1f} GB/s). float32, "
        f"{found['machine']}, {threads} thread{'s' * (threads != 1)}, Python {versions['python']}, "
        f"{others}, {found['date']}. Made by `{made_by}`."
    )


def _cell(times: dict[str, float] | None, mine: float, with_ratio: bool) -> str:
    if times is None:
        return "–"
    ratio = f" ({_digits(times['median_ms'] / mine)}×)" if with_ratio else ""
    return f"{_digits(times['median_ms'])} ± {_digits(times['iqr_ms'] / 2, 1)}{ratio}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|---" * columns + "|"


def _digits(x: float, significant: int = 3) -> str:
    """So many significant digits, and never an exponent."""
    if x == 0:
        return "0"
    places = significant - 1 - math.floor(math.log10(x))
    return f"{x:.{max(0, places)}f}"


def _plot(found: dict[str, Any], file: Path) -> None:
    """Forward + backward: a group of bars for each shape, the limit as a mark across the group."""
    figure = Figure(figsize=(8, 9), layout="constrained")
    axes = figure.add_subplot()
    height = 0.85 / len(RIVALS)
    for i, (name, colour) in enumerate(zip(RIVALS, COLOURS, strict=True)):
        bars = [(g, row["both"].get(name)) for g, row in enumerate(found["cases"])]
        measured = [(g, times["median_ms"]) for g, times in bars if times]
        at = [g + (i - (len(RIVALS) - 1) / 2) * height for g, _ in measured]
        widths = [width for _, width in measured]
        axes.barh(at, widths, height, color=colour, label=name)
        for y, width in zip(at, widths, strict=True):
            axes.annotate(
                _digits(width), (width, y), (3, 0), textcoords="offset points", va="center", size=7
            )
    limits = [row["limit_ms"]["both"] for row in found["cases"]]
    groups = range(len(limits))
    low, high = ([g + side * 0.45 for g in groups] for side in (-1, 1))
    axes.vlines(limits, low, high, color="black", linewidth=2, label="limit of the memory")
    axes.set_xscale("log")
    axes.set_xlim(left=min(limits) / 2)
    axes.set_xlim(right=3 * axes.get_xlim()[1])  # room for the figures
    axes.set_yticks(
        list(groups),
        [row["case"].replace(" × ", "\n× ").replace(", K", "\nK") for row in found["cases"]],
    )
    axes.invert_yaxis()
    axes.set_xlabel("forward + backward, ms (logarithmic)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()

"""How the presets compare: train each at several seeds, and write the table of the README.

    python -m benchmarks.presets [--only NAME …] [--seeds 5] [--jobs 2] [--epochs N]

Beside the presets there are ``planar`` with 3 and with 80 flows, and ``best`` without any.

Every run is `flowvae train` in a process of its own, with one thread, under ``runs/presets``; a
finished run is not repeated, and what is known of presets that are not named stays. Then the table
in ``docs/results.md`` and ``README.md`` is written anew from the runs' own ``evaluation.json``; its
figures are kept in ``docs/results/presets.json``, and the documents' pictures of MNIST are drawn
from the runs of the first seed.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import flowvae
from benchmarks.report import replace_between
from flowvae.device import machine
from flowvae.reproduction import Row, Table
from flowvae.reproduction.page import mean_and_error
from flowvae.reproduction.running import jobs_of, run_jobs

ROOT = Path(__file__).parents[1]
PRESETS = ("original", "gaussian", "planar", "best", "quick")
_SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"preset": name} for name in PRESETS},
    **{f"planar, K = {K}": {"preset": "planar", "num_flows": K} for K in (3, 80)},
    "best, Gaussian": {"preset": "best", "posterior": "gaussian"},
}
RUNS = Table("", "", "", (), tuple(Row(name, chosen) for name, chosen in _SETTINGS.items()))
PAIRS = (
    ("planar", "gaussian"),
    ("planar", "planar, K = 3"),
    ("planar, K = 80", "planar"),
    ("best", "best, Gaussian"),
)
# Pictures the documents show, and the preset they are of (its first seed).
PICTURES = {"posterior": "original", "latent_grid": "planar", "latent_space": "planar"}
_SETTLED = 10  # epochs after which an ELBO should not fall any more
COLUMNS = {"elbo": "test pseudo-ELBO", "iw_bound": "200-sample bound", "kl": "KL(q ‖ p(z))"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(_SETTINGS), default=PRESETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "presets")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    more = {} if options.epochs is None else {"epochs": options.epochs}
    chosen = {"rows": options.only, "seeds": options.seeds, "more": more}
    jobs = jobs_of(RUNS, options.runs, **chosen, device="cpu")
    run_jobs(jobs, options.jobs, lambda line: print(line, flush=True))
    found = [_read(job.row, job.seed, job.folder) for job in jobs]
    kept = ROOT / "docs" / "results" / "presets.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(kept.read_text()) if kept.exists() else []
    found += [row for row in before if row["preset"] not in options.only]
    kept.write_text(json.dumps(found, indent=2) + "\n")
    table = results_table(found)
    for file in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        replace_between(file, "presets", table)
    drawable = {picture: name for picture, name in PICTURES.items() if name in options.only}
    for picture, preset in drawable.items():
        drawn = flowvae.draw_figures(options.runs / f"{preset}-seed0", device="cpu")
        chosen = next(path for path in drawn if path.stem == picture)
        shutil.copy(chosen, ROOT / "docs" / "images" / chosen.name)
    print(table)


def _read(name: str, seed: int, folder: Path) -> dict[str, Any]:
    evaluation = json.loads((folder / "evaluation.json").read_text())
    environment = json.loads((folder / "environment.json").read_text())
    with (folder / "metrics.csv").open() as file:
        by_epoch = [float(row["test_elbo"]) for row in csv.DictReader(file)]
    return {
        "preset": name,
        "seed": seed,
        "epochs": len(by_epoch),
        "largest_fall": _largest_fall(by_epoch),
        "samples": evaluation["samples"],
        "date": environment["started"][:10],
        "terms": evaluation["terms"],
        "versions": environment["versions"],
        "git_commit": environment["git_commit"],
        "training_seconds": environment["durations"]["training"],
        "machine": machine(),
    }


def _largest_fall(elbo: list[float]) -> float:
    """How far the test ELBO of an epoch after the tenth lay below the best one since the tenth."""
    best, fall = -math.inf, 0.0
    for value in elbo[_SETTLED - 1 :]:
        fall, best = max(fall, best - value), max(best, value)
    return fall


def results_table(found: list[dict[str, Any]]) -> str:
    lines = [
        f"| preset | {' | '.join(COLUMNS.values())} | by seed (test pseudo-ELBO) | largest fall |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    by_preset = {name: [row for row in found if row["preset"] == name] for name in _SETTINGS}
    by_preset = {name: rows for name, rows in by_preset.items() if rows}
    for name, rows in by_preset.items():
        cells = [mean_and_error([row["terms"][key]["mean"] for row in rows]) for key in COLUMNS]
        by_seed = ", ".join(f"{row['terms']['elbo']['mean']:.2f}" for row in rows)
        cells += [by_seed, _falls(rows)]
        lines.append(f"| {name}, {rows[0]['epochs']} epochs | {' | '.join(cells)} |")
    lines += [_paired(by_preset, *pair) for pair in PAIRS if by_preset.keys() >= set(pair)]
    dates = "; ".join(
        f"{name} of {max(row['date'] for row in by_preset[name])}" for name in by_preset
    )
    first = found[0]
    lines.append(
        "\nNats per image on the 10,000 MNIST test images, mean ± standard error over the seeds; "
        "grey pixels (so pseudo-likelihoods, not to be compared with results on binary pixels), "
        "sampled z. The largest fall is that of the test pseudo-ELBO below its best since epoch "
        f"{_SETTLED}, in the worst run. {first['machine']}, one thread a run, "
        f"torch {first['versions']['torch']}; {dates}. Made by `make results`."
    )
    return "\n".join(lines)


def _falls(rows: list[dict[str, Any]]) -> str:
    falls = [
        row["largest_fall"] for row in rows if row["epochs"] > _SETTLED and "largest_fall" in row
    ]
    return f"{max(falls):.2f}" if len(falls) == len(rows) else "–"


def _paired(by_preset: dict[str, list[dict[str, Any]]], first: str, second: str) -> str:
    """The row of differences, by seed, of two presets."""
    pairs = [
        (one["terms"], other["terms"])
        for one in by_preset.get(first, [])
        for other in by_preset.get(second, [])
        if one["seed"] == other["seed"]
    ]
    gains = [[a[key]["mean"] - b[key]["mean"] for a, b in pairs] for key in COLUMNS]
    cells = [mean_and_error(gain) if gain else "–" for gain in gains]
    by_seed = ", ".join(f"{gain:.2f}" for gain in gains[0])
    return f"| {first} − {second}, paired by seed | {' | '.join(cells)} | {by_seed} | |"


if __name__ == "__main__":
    main()

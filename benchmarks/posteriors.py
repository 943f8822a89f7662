"""All posteriors, everything else equal: MNIST under dynamic binarization, one MLP, D = 40.

    python -m benchmarks.posteriors [--seeds 3] [--epochs 50] [--num-flows 8] [--jobs 2]
                                    [--posteriors planar iaf …]

Every run is `flowvae train` in a process of its own, with one thread, under ``runs/posteriors``;
a finished run of the same settings is not repeated. Then the table in ``docs/families.md`` is
written anew from the runs' own files; its figures are kept in ``docs/results/posteriors.json``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.report import replace_between
from flowvae.config import Part, load_config
from flowvae.config.options import options_of
from flowvae.device import machine
from flowvae.registry import POSTERIORS
from flowvae.reproduction.page import mean_and_error

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "binarization": "dynamic",
    "latent_dim": 40,
    "hidden_dims": "300,300",
    "constraint": "centred",
    "max_grad_norm": 50.0,
    "weight_decay": 0.0,
    "likelihood": "bernoulli",
    "prior": "standard_normal",
    "network": "mlp",
}
_POSTERIOR_OPTIONS = ("num_flows", "constraint")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--num-flows", type=int, default=8)
    parser.add_argument("--samples", type=int, default=500, help="of z per datum, for the NLL")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--posteriors", nargs="+", choices=list(POSTERIORS), default=None)
    parser.add_argument("--data", default="mnist", help="what --data names")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "posteriors")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    settings: dict[str, Any] = {
        **SETTINGS,
        "data": options.data,
        "epochs": options.epochs,
        "num_flows": options.num_flows,
        "evaluation_samples": options.samples,
    }

    names = options.posteriors or list(POSTERIORS)
    jobs = [(name, seed) for seed in range(options.seeds) for name in names]
    with ThreadPoolExecutor(options.jobs) as pool:
        folders = list(pool.map(lambda job: _train(job[0], job[1], settings, options.runs), jobs))
    found = [_read(name, seed, folder) for (name, seed), folder in zip(jobs, folders, strict=True)]
    kept = options.docs / "results" / "posteriors.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    about = {"settings": settings, "seeds": options.seeds, "jobs": options.jobs, "runs": found}
    kept.write_text(json.dumps(about, indent=2) + "\n")
    text = table(about)
    replace_between(options.docs / "families.md", "posteriors", text)
    print(text)


def _train(name: str, seed: int, settings: dict[str, Any], runs: Path) -> Path:
    K, epochs = settings["num_flows"], settings["epochs"]
    own = options_of("posterior", name).model_fields
    settings = {k: v for k, v in settings.items() if k in own or k not in _POSTERIOR_OPTIONS}
    folder = runs / f"{name}-K{K}-epochs{epochs}-seed{seed}"
    environment = folder / "environment.json"
    if environment.exists() and json.loads(environment.read_text())["status"] == "finished":
        _check_settings(folder, settings)
        return folder
    command = [sys.executable, "-m", "flowvae", "train", "--quiet", "--posterior", name]
    for key, value in settings.items():
        command += [f"--{key.replace('_', '-')}", str(value)]
    command += ["--seed", str(seed), "--device", "cpu", "--out", str(folder)]
    print("started ", folder, flush=True)
    threads = {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env={**os.environ, **threads}, stdout=subprocess.DEVNULL)
    print("finished", folder, flush=True)
    return folder


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """A finished run counts only if it was made with these settings."""
    config = load_config(folder / "config.yaml")
    for key, value in settings.items():
        got = getattr(config, key)
        got = got.name if isinstance(got, Part) else got
        got = ",".join(map(str, got)) if isinstance(got, tuple) else got
        if key != "data" and got != value:
            raise SystemExit(f"{folder}: expected {key} = {value}, got {got}; remove the run")


def _read(name: str, seed: int, folder: Path) -> dict[str, Any]:
    evaluation = json.loads((folder / "evaluation.json").read_text())
    environment = json.loads((folder / "environment.json").read_text())
    with (folder / "metrics.csv").open() as file:
        rates = [float(row["steps_per_second"]) for row in csv.DictReader(file)]
    return {
        "posterior": name,
        "seed": seed,
        "elbo": evaluation["terms"]["elbo"],
        "nll": -evaluation["terms"]["iw_bound"]["mean"],
        "kl": evaluation["terms"]["kl"],
        "ms_per_step": 1000 / statistics.median(rates),
        "data": evaluation["data"],
        "count": evaluation["count"],
        "date": environment["started"][:10],
        "torch": environment["versions"]["torch"],
        "git_commit": environment["git_commit"],
        "machine": machine(),
    }


def table(about: dict[str, Any]) -> str:
    """The results as Markdown."""
    settings, runs = about["settings"], about["runs"]
    lines = ["| posterior | ELBO | NLL | KL(q ‖ p(z)) | ms per step |", "|---" * 5 + "|"]
    for name in dict.fromkeys(run["posterior"] for run in runs):
        own = [run for run in runs if run["posterior"] == name]
        cells = [
            mean_and_error([run["elbo"]["mean"] for run in own]),
            mean_and_error([run["nll"] for run in own]),
            mean_and_error([run["kl"]["mean"] for run in own]),
            f"{statistics.median(run['ms_per_step'] for run in own):.1f}",
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    first = runs[0]
    spread = ", mean ± standard error over seeds" if about["seeds"] > 1 else ", seed"
    seeds = ", ".join(map(str, range(about["seeds"])))
    lines.append(
        f"\nNats per datum on the {first['count']:,} test data of {first['data']}, one fixed "
        f"Bernoulli draw of each{spread} {seeds}; K = {settings['num_flows']}, "
        f"D = {settings['latent_dim']}, an MLP of {settings['hidden_dims']}, "
        f"{settings['epochs']} epochs of batch 100 for each, dynamic binarization, gradients "
        f"clipped to {settings['max_grad_norm']:g}. NLL is minus the "
        f"{settings['evaluation_samples']}-sample importance-weighted bound. Time is the median "
        f"epoch's, {about['jobs']} runs at a time, one thread each. {first['machine']}, torch "
        f"{first['torch']}, {max(run['date'] for run in runs)}. Made by "
        "`python -m benchmarks.posteriors`."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

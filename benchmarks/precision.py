"""Whether bfloat16 reaches the test ELBO of float32.

    python -m benchmarks.precision [--seeds N] [--epochs N] [--quick]

Preset ``original`` on MNIST, the same seeds under both precisions; the test ELBO (of grey pixels, a
pseudo-likelihood) is evaluated in float32. The table goes into ``docs/training.md``, the figures to
``docs/results/precision.json``; with ``--quick`` to ``runs/bench-quick``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from datetime import date
from pathlib import Path

from benchmarks.report import replace_between
from flowvae import build_vae
from flowvae.config import resolve_config
from flowvae.data import load_dataset
from flowvae.device import machine
from flowvae.evaluation import evaluate_model
from flowvae.training import Trainer

ROOT = Path(__file__).parents[1]
PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="one epoch, kept apart")
    options = parser.parse_args()
    epochs = 1 if options.quick else options.epochs
    elbos = {
        precision: [_elbo(precision, seed, epochs) for seed in range(options.seeds)]
        for precision in PRECISIONS
    }
    differences = [b - a for a, b in zip(*elbos.values(), strict=True)]
    rows = {name: _mean_and_error(values) for name, values in elbos.items()}
    rows["bfloat16 - float32"] = _mean_and_error(differences)
    found = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "epochs": epochs,
        "seeds": options.seeds,
        "test_elbo": elbos,
        "means": rows,
    }
    docs = ROOT / "runs" / "bench-quick" if options.quick else ROOT / "docs"
    kept = docs / "results" / "precision.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    lines = ["| test pseudo-ELBO, nats | mean ± standard error |", "|---|---|"]
    lines += [f"| {name} | {mean:.2f} ± {error:.2f} |" for name, (mean, error) in rows.items()]
    lines += [
        "",
        f"Preset original, {epochs} epochs, seeds 0 to {options.seeds - 1}, one draw of z per test "
        f"image. {machine()}, {found['date']}. Made by `python -m benchmarks.precision`.",
    ]
    print("\n".join(lines))
    if not options.quick:
        replace_between(docs / "training.md", "precision-bench", "\n".join(lines))


def _elbo(precision: str, seed: int, epochs: int) -> float:
    config = resolve_config(precision=precision, seed=seed, epochs=epochs)
    data = load_dataset("mnist")
    trainer = Trainer(build_vae(config, data.data_shape), data, config.training, seed=seed)
    for _ in range(epochs):
        for _ in trainer.steps():
            pass
    found = evaluate_model(trainer.model.eval(), data.test, 1, seed=seed).terms["elbo"].mean
    print(precision, "seed", seed, f"{found:.2f}", flush=True)
    return found


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return statistics.mean(values), error


if __name__ == "__main__":
    main()

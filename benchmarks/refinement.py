"""How near a refined posterior comes to the true one, and what it costs.

    python -m benchmarks.refinement RUN … [--count 1000] [--steps 6]

For each run with D = 2: KL(q ‖ p(z|x)) by quadrature over the first test data, of the encoder's q
and of the refined one, and the seconds that refining all test data takes. The table goes to
``docs/evaluation.md``, its figures to ``docs/results/refinement.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

import flowvae
from benchmarks.report import replace_between
from flowvae.device import machine
from flowvae.evaluation import Estimate, quadrature
from flowvae.vae import RefinedVAE

ROOT = Path(__file__).parents[1]
_LARGE = 3.0  # nats


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    rows = [_measure(path, options.count, options.steps) for path in options.runs]
    found = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "count": options.count,
        "steps": options.steps,
        "runs": rows,
    }
    (ROOT / "docs" / "results" / "refinement.json").write_text(json.dumps(found, indent=2) + "\n")
    table = refinement_table(found)
    replace_between(ROOT / "docs" / "evaluation.md", "refinement", table)
    print(table)


def _measure(path: Path, count: int, steps: int) -> dict[str, Any]:
    run = flowvae.open_run(path, "cpu")
    model, test = run.model, run.dataset.test
    refined = RefinedVAE(model, steps=steps)
    everything = test.values(slice(None))
    refined.posterior(everything[:100])  # what is compiled or allocated once
    start = time.perf_counter()
    refined.posterior(everything)
    seconds = time.perf_counter() - start
    x = everything[:count]
    exact = [quadrature(each, x) for each in (model, refined)]
    kls = [found.kl for found in exact if found.kl is not None]
    about = {"run": path.name, "seconds": seconds, "data": len(everything)}
    for name, kl in zip(("encoder", "refined"), kls, strict=True):
        about[name] = {
            "mean": Estimate.of(kl).mean,
            "standard_error": Estimate.of(kl).standard_error,
            "median": kl.median().item(),
            "largest": kl.max().item(),
            "above": int((kl > _LARGE).sum()),
        }
    return about


def refinement_table(found: dict[str, Any]) -> str:
    lines = [
        "| run | KL of the encoder's q | of the refined q | its median | its largest | above "
        f"{_LARGE:g} nats | seconds for {found['runs'][0]['data']:,} images |",
        "|---" * 7 + "|",
    ]
    for row in found["runs"]:
        before, after = row["encoder"], row["refined"]
        lines.append(
            f"| {row['run']} | {before['mean']:.2f} ± {before['standard_error']:.2f} "
            f"| {after['mean']:.3f} ± {after['standard_error']:.3f} | {after['median']:.3f} "
            f"| {after['largest']:.2f} | {after['above']} | {row['seconds']:.1f} |"
        )
    lines.append(
        f"\nKL(q ‖ p(z|x)) in nats by quadrature, mean ± standard error over the first "
        f"{found['count']:,} MNIST test images; {found['steps']} steps. {found['machine']}, "
        f"{found['threads']} threads, torch {found['torch']}, {found['date']}. Made by "
        "`python -m benchmarks.refinement RUN …`."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

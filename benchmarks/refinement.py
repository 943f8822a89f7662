"""How near a refined posterior comes to the true one, and what it costs.

    python -m benchmarks.refinement RUN … [--count 1000] [--steps 6]

For each run with D = 2: KL(q ‖ p(z|x)) by quadrature over the first test data, of the encoder's q
and of the refined one, and the seconds that refining all test data takes. Data above three nats
after it are listed with the number of regions in which p(z|x) is above a twentieth of its peak, and
those of the first run that has some are drawn. The table goes to ``docs/evaluation.md``, its
figures to ``docs/results/refinement.json``, the picture to ``docs/images/refined_modes.png``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor

import flowvae
from benchmarks.report import replace_between
from flowvae.device import machine
from flowvae.evaluation import Estimate, quadrature
from flowvae.figures import posterior_panels, save_figure
from flowvae.refined import RefinedVAE
from flowvae.vae import VAE

ROOT = Path(__file__).parents[1]
_LARGE = 3.0  # nats
_PART_OF_PEAK, _DRAWN = 20, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    rows = [_measure(path, options.count, options.steps) for path in options.runs]
    for path, row in zip(options.runs, rows, strict=True):
        if row["far"]:
            _draw(path, [each["index"] for each in row["far"]])
            break
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
    far = [int(i) for i in (kls[-1] > _LARGE).nonzero().flatten()]
    about["far"] = [
        {"index": i, "kl": kls[-1][i].item(), "regions": _regions(model, x[i : i + 1])} for i in far
    ]
    return about


def _regions(model: VAE, x: Tensor) -> int:
    """In how many separate regions p(z|x) is above a twentieth of its peak."""
    (found,) = quadrature(model, x, keep=True).posterior or []
    z, log_density, _ = found
    # The cells are as long along each axis as its nearest two centres are apart.
    side = torch.stack([_least_step(along) for along in z.unbind(-1)])
    cell = ((z - z.amin(0)) / side).round().long()
    plane = np.zeros((cell.amax(0) + 1).tolist(), dtype=bool)
    high = log_density > log_density.max() - math.log(_PART_OF_PEAK)
    plane[tuple(cell[high].T.numpy())] = True
    _, count = label(plane, structure=np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    return count


def _least_step(values: Tensor) -> Tensor:
    steps = values.sort().values.diff()
    return steps[steps > 1e-3 * steps.max()].min()


def _draw(path: Path, indices: list[int]) -> None:
    run = flowvae.open_run(path, "cpu")
    x = run.dataset.test.values(torch.tensor(indices[:_DRAWN]))
    save_figure(posterior_panels(run.model, x), ROOT / "docs" / "images" / "refined_modes.png")


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
    for row in found["runs"]:
        if row.get("far"):
            each = "; ".join(
                f"image {one['index']}, {one['kl']:.2f} nats, {one['regions']} "
                f"region{'s' if one['regions'] > 1 else ''}"
                for one in row["far"]
            )
            lines.append(f"\nAbove {_LARGE:g} nats with {row['run']}: {each}.")
    lines.append(
        f"\nKL(q ‖ p(z|x)) in nats by quadrature, mean ± standard error over the first "
        f"{found['count']:,} MNIST test images; {found['steps']} steps. {found['machine']}, "
        f"{found['threads']} threads, torch {found['torch']}, {found['date']}. Made by "
        "`python -m benchmarks.refinement RUN …`."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

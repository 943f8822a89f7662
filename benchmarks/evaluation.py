"""How fast importance sampling is, beside the decoder's matrix products alone.

    python -m benchmarks.evaluation [--images N] [--samples S] [--rounds R] [--threads T] [--quick]

The tutorial's model (784-500-2-500-784, K = 3) on binarized MNIST test images: log p(x) by S
samples each, with all that is reported beside it, and in turn with it the two matrix products of as
many decoder passes. Then how fast ∂ log q/∂z of a planar posterior is, for path gradients: by the
fused inverse, and forward by Sherman and Morrison's formula. The figures go to
``docs/results/evaluation.json`` and ``docs/benchmarks.md``; with ``--quick``, which is to see that
this program works, to ``runs/bench-quick``.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flowvae
from benchmarks.report import replace_between
from flowvae.data import load_dataset
from flowvae.device import machine
from flowvae.distributions import DiagonalGaussian, FlowDistribution
from flowvae.evaluation import importance_sampling
from flowvae.flows import PlanarTransform, reference

ROOT = Path(__file__).parents[1]
LEAST_SHARE, MOST_BYTES = 0.6, 2e9
SIZES = [(100, 3, 2), (100, 16, 40), (100, 80, 40)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=200, help="a round; 10,000 are the test set")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.data, options.samples, options.rounds = 20, 500, 3
    torch.set_num_threads(options.threads)
    found = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "threads": options.threads,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "importance": importance(options.data, options.samples, options.rounds),
        "path_gradients": [path_gradient(*size, options.rounds) for size in SIZES],
    }
    docs = ROOT / "runs" / "bench-quick" if options.quick else ROOT / "docs"
    (docs / "results").mkdir(parents=True, exist_ok=True)
    (docs / "results" / "evaluation.json").write_text(json.dumps(found, indent=2) + "\n")
    if options.quick:
        shutil.copy(ROOT / "docs" / "benchmarks.md", docs / "benchmarks.md")
    replace_between(docs / "benchmarks.md", "evaluation-bench", _table(found))
    print(_table(found))
    timed = found["importance"]
    for met, text in (
        (timed["share"] >= LEAST_SHARE, f"share {timed['share']:.2f}, at least {LEAST_SHARE}"),
        (timed["peak_bytes"] < MOST_BYTES, f"{timed['peak_bytes'] / 1e9:.2f} GB, under 2"),
    ):
        print("PASS" if met else "MISS", text)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def importance(images: int, samples: int, rounds: int) -> dict[str, Any]:
    """Seconds per decoder pass of both, medians over rounds, in turn so that noise hits both."""
    model = flowvae.build_vae(flowvae.preset("original"), (28, 28)).eval()
    test = load_dataset("mnist", "static").test
    x = test.values(torch.arange(images) % len(test))
    passes = images * samples
    hidden = model.get_parameter("decoder.0.layers.0.weight").detach()
    output = model.get_parameter("decoder.1.weight").detach()
    # As many at once as importance sampling decodes, into memory that is there already.
    n = max(1, 2**20 // output.shape[0])
    z, h = torch.randn(n, hidden.shape[1]), torch.empty(n, hidden.shape[0])
    logits = torch.empty(n, output.shape[0])

    def products() -> None:
        for _ in range(passes // n):
            torch.mm(z, hidden.T, out=h)
            torch.mm(h, output.T, out=logits)

    def estimate() -> None:
        importance_sampling(model, x, samples, torch.Generator().manual_seed(0))

    with torch.inference_mode():
        importance_sampling(model, x[:2], 100)  # compiles
        products()
        times = [(_seconds(products) * passes / (passes // n * n), _seconds(estimate))
                 for _ in range(rounds)]  # fmt: skip
    shares = [alone / whole for alone, whole in times]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "images": images,
        "samples": samples,
        "rounds": rounds,
        "microseconds_per_pass": 1e6 * statistics.median(whole for _, whole in times) / passes,
        "products_microseconds": 1e6 * statistics.median(alone for alone, _ in times) / passes,
        "share": statistics.median(shares),
        "shares": sorted(shares),
        "peak_bytes": peak * (1 if sys.platform == "darwin" else 1024),
    }


def path_gradient(B: int, K: int, D: int, rounds: int) -> dict[str, Any]:
    """∂ log q/∂z at draws of q, in ms: by its inverse, and carried forward."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    base = DiagonalGaussian(normal(B, D), normal(B, D) - 2)
    w, u = normal(B, K, D) / D**0.5, normal(B, K, D) / D**0.5
    flow = PlanarTransform(w, u, normal(B, K), "centred")
    q = FlowDistribution(base, flow)
    eps = normal(B, D)
    z = q.at_noise(eps).z.requires_grad_()

    def by_inverse() -> Tensor:
        return torch.autograd.grad(q.log_prob(z).sum(), z)[0]

    def forward() -> Tensor:
        return sherman_morrison(base, flow, eps)

    difference = (by_inverse() - forward()).abs().max() / forward().abs().max()
    if difference > 1e-3:
        raise SystemExit(f"the two gradients differ by {difference:.1e}")
    times: dict[str, list[float]] = {"inverse": [], "forward": []}
    for _ in range(rounds):
        for name, call in (("inverse", by_inverse), ("forward", forward)):
            call()
            times[name].append(_seconds(lambda call=call: [call() for _ in range(20)]) / 20)
    return {
        "size": [B, K, D],
        **{f"{name}_ms": 1e3 * statistics.median(each) for name, each in times.items()},
    }


@torch.no_grad()
def sherman_morrison(base: DiagonalGaussian, flow: PlanarTransform, eps: Tensor) -> Tensor:
    """The row vector ∂ log q_k/∂z_k carried from layer to layer.

    J = I + h û wᵀ, so J⁻ᵀ v = v - h w ûᵀv / (1 + h c); with v = δ - κ w that is δ - β w.
    """
    u_hat, c, _ = reference.constrain(flow.w, flow.u, reference.SHIFTS[flow.constraint])
    deviation = (0.5 * base.log_var).exp()
    z, delta = base.loc + deviation * eps, -eps / deviation
    for k in range(flow.num_flows):
        w, shift = flow.w[..., k, :], u_hat[..., k, :]
        t = torch.tanh((w * z).sum(-1) + flow.b[..., k])
        h = 1 - t * t
        det = 1 + h * c[..., k]
        kappa = -2 * t * h * c[..., k] / det
        beta = (h * (shift * delta).sum(-1) + kappa) / det
        delta = delta - beta.unsqueeze(-1) * w
        z = z + shift * t.unsqueeze(-1)
    return delta


def _table(found: dict[str, Any]) -> str:
    timed = found["importance"]
    lines = [
        "| | µs per decoder pass |",
        "|---|---|",
        f"| importance sampling, all of it | {timed['microseconds_per_pass']:.1f} |",
        f"| the decoder's matrix products alone | {timed['products_microseconds']:.1f} |",
        "",
        f"The products alone take {timed['share']:.0%} of the whole (median of {timed['rounds']} "
        f"rounds, {timed['shares'][0]:.0%} to {timed['shares'][-1]:.0%}); at least "
        f"{LEAST_SHARE:.0%} was asked for. {timed['images']:,} images × {timed['samples']:,} "
        f"samples a round; {timed['peak_bytes'] / 1e9:.2f} GB at most, the process and its "
        f"libraries included.",
        "",
        "| ∂ log q/∂z, ms | by the fused inverse | forward by Sherman and Morrison's formula |",
        "|---|---|---|",
    ]
    for row in found["path_gradients"]:
        B, K, D = row["size"]
        lines.append(f"| B {B}, K {K}, D {D} | {row['inverse_ms']:.2f} | {row['forward_ms']:.2f} |")
    threads = found["threads"]
    lines.append(
        f"\n{found['machine']}, {threads} thread{'s' if threads > 1 else ''}, torch "
        f"{found['versions']['torch']}, {found['date']}. Made by `python -m benchmarks.evaluation`."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""What a training step costs, beside the tutorial's script and beside its matrix products.

    python -m benchmarks.training [--quick] [--rounds N] [--device cpu|cuda]

Four tables go to ``docs/benchmarks.md`` and ``docs/results/training.json`` (``training-cuda`` on a
CUDA device): an epoch of the tutorial's script against flowvae's; a step against its floor, which
is the matrix products of the same sizes and one pass of the optimizer; what a flow costs beyond the
products of its wider heads; how time and peak memory grow with batch and data. What is compared is
measured in turn in every round. ``--quick`` is to see that this program works; it writes to
``runs/bench-quick``.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import replace_between
from benchmarks.starting_script import StartingScript
from benchmarks.training_report import plot, tables, targets
from flowvae import Config, build_vae
from flowvae.config import resolve_config
from flowvae.data import Dataset, Split, load_dataset
from flowvae.device import machine
from flowvae.training import Trainer

ROOT = Path(__file__).parents[1]
HIDDEN, PIXELS = 500, 784
FLOWS = [(D, K) for D in (2, 40) for K in (0, 3, 16, 80)]
BATCHES = (20, 50, 100, 200, 500, 1000)
SIZES = (6000, 12000, 30000, 60000)

Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few short measurements, kept apart")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--docs", type=Path, help="the folder to write to instead of docs")
    parser.add_argument("--cost", help=argparse.SUPPRESS)  # one measurement, in its own process
    options = parser.parse_args()
    device = options.device
    if options.cost:
        print(json.dumps(_cost(json.loads(options.cost), device)))
        return
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: nothing measured, torch finds no CUDA device")
    data = load_dataset("mnist")
    if options.quick:
        data = part_of(data, 3000)
    rounds = options.rounds or (2 if options.quick else 5)
    where = torch.cuda.get_device_name() if device == "cuda" else machine()
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": where,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "rounds": rounds,
        "epoch": _epochs(data, rounds, device),
        "step": _steps(data, 12 * rounds, device),
        "flow": _flows(data, 4 * rounds, device),
        "growth": _growth(device, options.quick),
    }
    found["targets"] = targets(found, device)
    docs = options.docs or (ROOT / "runs" / "bench-quick" if options.quick else ROOT / "docs")
    name = "training" if device == "cpu" else "training-cuda"
    kept = docs / "results" / f"{name}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    text = tables(found)
    print(f"\n{text}\n")
    page = docs / "benchmarks.md"
    if page.exists() and f"<!-- {name}-bench -->" in page.read_text(encoding="utf-8"):
        replace_between(page, f"{name}-bench", text)
    plot(found, docs / "images" / f"{name}-bench.png")
    for row in found["targets"]:
        print("PASS" if row["met"] else "MISS", row["target"], "-", row["measured"])


# ---------------------------------------------------------------- measuring


def part_of(data: Dataset, n: int) -> Dataset:
    labels = None if data.train.labels is None else data.train.labels[:n]
    return Dataset(data.name, Split(data.train.data[:n], labels), data.test, data.data_shape)


def _seconds(call: Call, device: str) -> float:
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(calls: dict[str, Call], rounds: int, device: str) -> dict[str, list[float]]:
    """Times in ms of each call, all in turn in every round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 1):
        for name, call in calls.items():
            seconds = _seconds(call, device)
            if i:  # the first round compiles, and fills caches
                times[name].append(1e3 * seconds)
    return times


def median(values: Sequence[float]) -> tuple[float, float]:
    """And its standard error, that of a median of normal values, 1.25 s/√n."""
    n = len(values)
    return statistics.median(values), 1.2533 * statistics.stdev(values) / n**0.5 if n > 1 else 0.0


def _row(times: Sequence[float], n: int = 1) -> dict[str, float]:
    """Time of one of n."""
    middle, error = median([ms / n for ms in times])
    return {"median_ms": middle, "se_ms": error}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Round by round: the machine is another one from one second to the next."""
    middle, error = median([a / b for a, b in zip(above, below, strict=True)])
    return {"ratio": middle, "ratio_se": error}


def _trainer(data: Dataset, device: str, **settings: Any) -> Trainer:
    config = resolve_config(**settings)
    model = build_vae(config, data.data_shape).to(device)
    return Trainer(model, data, config.training, config.objective, config.seed)


def _epoch(trainer: Trainer) -> Call:
    def run() -> None:
        for _ in trainer.steps():
            pass
        trainer.means.read()

    return run


def _epochs(data: Dataset, rounds: int, device: str) -> dict[str, Any]:
    print("epochs", flush=True)
    pixels = np.asarray(data.train.data).reshape(-1, 28, 28)
    assert data.train.labels is not None  # noqa: S101 - MNIST has them
    script = StartingScript(pixels, data.train.labels.numpy(), device).epoch
    calls: dict[str, Call] = {"script of the tutorial": script}
    for precision in ("float32", "bfloat16"):
        trainer = _trainer(data, device, precision=precision)
        calls[precision] = _epoch(trainer)
        # What no loop of these products and this optimizer can go below.
        calls[f"{precision}, its floor"] = floor(
            resolve_config(precision=precision), device, len(trainer.batches)
        )
    times = in_turn(calls, max(2, rounds), device)
    script = times["script of the tutorial"]
    return {name: _row(ms) | ratio(script, ms) for name, ms in times.items()}


def _some_steps(trainer: Trainer, n: int) -> Call:
    def forever() -> Any:
        while True:
            yield from trainer.steps()

    steps = forever()

    def run() -> None:
        for _ in range(n):
            next(steps)

    return run


def floor(config: Config, device: str, n: int) -> Call:
    """n times the matrix products of a step and one pass of the optimizer over the parameters."""
    B, D, K = config.batch_size, config.latent_dim, getattr(config, "num_flows", 0)
    outputs = 2 * D + 2 * K * D + K
    dtype = getattr(torch, config.precision)

    def some(*shape: int) -> torch.Tensor:
        return (torch.rand(*shape, device=device) * 0.01).to(dtype)

    x, h, heads, z, logits = (
        some(B, PIXELS),
        some(B, HIDDEN),
        some(B, outputs),
        some(B, D),
        some(B, PIXELS),
    )
    W1, Wh, W3, W4 = (
        some(HIDDEN, PIXELS),
        some(outputs, HIDDEN),
        some(HIDDEN, D),
        some(PIXELS, HIDDEN),
    )
    shapes = [(HIDDEN, PIXELS), (HIDDEN,), (outputs, HIDDEN), (outputs,)]
    shapes += [(HIDDEN, D), (HIDDEN,), (PIXELS, HIDDEN), (PIXELS,)]
    weights = [torch.nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes]
    for weight in weights:
        weight.grad = torch.full_like(weight, 1e-3)
    on_cuda = device == "cuda"
    adam = torch.optim.Adam(weights, weight_decay=1e-5, fused=True, capturable=on_cuda)

    def run() -> None:
        for _ in range(n):
            x @ W1.t(), h @ Wh.t(), z @ W3.t(), h @ W4.t()  # forward
            logits.t() @ h, logits @ W4, h.t() @ z, h @ W3  # back through the decoder
            heads.t() @ h, heads @ Wh, h.t() @ x  # and the encoder
            adam.step()

    return run


def _step_and_floor(data: Dataset, device: str, n: int, **settings: Any) -> dict[str, Call]:
    trainer = _trainer(data, device, **settings)
    config = resolve_config(**settings)
    return {"step": _some_steps(trainer, n), "floor": floor(config, device, n)}


def _steps(data: Dataset, rounds: int, device: str, n: int = 50) -> dict[str, Any]:
    print("steps", flush=True)
    calls: dict[str, Call] = {}
    for precision in ("float32", "bfloat16"):
        for name, call in _step_and_floor(data, device, n, precision=precision).items():
            calls[f"{precision} {name}"] = call
    times = in_turn(calls, rounds, device)
    return {
        name: _row(ms, n) | ratio(ms, times[f"{name.split()[0]} floor"])
        for name, ms in times.items()
    }


def _flows(data: Dataset, rounds: int, device: str, n: int = 30) -> list[dict[str, Any]]:
    print("flows", flush=True)
    rows = []
    for D in (2, 40):
        calls: dict[str, Call] = {}
        for K in (K for d, K in FLOWS if d == D):
            flows = {"posterior": "planar", "num_flows": K} if K else {"posterior": "gaussian"}
            made = _step_and_floor(data, device, n, latent_dim=D, **flows)
            calls |= {f"{K} {name}": call for name, call in made.items()}
        times = in_turn(calls, rounds, device)
        for K in (K for d, K in FLOWS if d == D):
            step, low = times[f"{K} step"], times[f"{K} floor"]
            shares = []
            for i in range(rounds):
                added = step[i] - low[i] - (times["0 step"][i] - times["0 floor"][i])
                shares.append(added / (step[i] - added))
            share, error = median(shares)
            rows.append(
                {
                    "D": D,
                    "K": K,
                    "step": _row(step, n),
                    "floor": _row(low, n),
                    "added_share": share,
                    "added_se": error,
                }
            )
    return rows


def _growth(device: str, quick: bool) -> list[dict[str, Any]]:
    """Each in a process of its own, whose peak memory is its own."""
    print("growth", flush=True)
    sizes, batches = ((1000, 3000), (50, 100)) if quick else (SIZES, BATCHES)
    if device == "cuda":  # a process there takes ten seconds to begin
        sizes, batches = sizes[::3], batches[::2]
    cases = [{"batch": B, "data": max(sizes)} for B in batches]
    cases += [{"batch": 100, "data": n} for n in sizes if n != max(sizes)]
    rows = []
    for case in cases:
        command = [sys.executable, "-m", "benchmarks.training", "--device", device]
        out = subprocess.run(
            [*command, "--cost", json.dumps(case)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        rows.append(case | json.loads(out.stdout.splitlines()[-1]))
    return rows


def _cost(case: dict[str, int], device: str) -> dict[str, float]:
    data = part_of(load_dataset("mnist"), case["data"])
    run = _epoch(_trainer(data, device, batch_size=case["batch"]))
    run()
    seconds = statistics.median(_seconds(run, device) for _ in range(3))
    peak = _peak_memory()
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return {"seconds": seconds, "peak_bytes": float(peak)}


def _peak_memory() -> int:
    """Most bytes this process has held. A new process inherits its parent's ru_maxrss on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()

"""What it costs that runs survive, and what several processes gain.

    python -m benchmarks.runs [--quick] [--rounds N]

Updates per second of as many processes as there are cores, each with one thread, beside one process
with as many threads; the time that a checkpoint takes, beside the minute between two; memory over
500 epochs. The table goes to ``docs/benchmarks.md`` and ``docs/results/runs.json``. ``--quick`` is
to see that this program works; it writes to ``runs/bench-quick``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import flowvae
from benchmarks.report import replace_between
from benchmarks.training import median, part_of, ratio
from flowvae import processes
from flowvae.config import resolve_config
from flowvae.data import Dataset, Split, load_dataset
from flowvae.device import machine
from flowvae.runs import Run
from flowvae.training import Trainer
from flowvae.training.fit import begin

ROOT = Path(__file__).parents[1]
BATCHES = (100, 1000)
ASKED = {100: 0.6, 1000: 0.85}  # of one process with as many threads
MEMORY_GROWTH, CHECKPOINT_SHARE = 0.01, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few short measurements, kept apart")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--work", help=argparse.SUPPRESS)  # one measurement, in its own process
    options = parser.parse_args()
    if options.work:
        _work(**json.loads(options.work))
        return
    rounds = options.rounds or (2 if options.quick else 5)
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "torch": torch.__version__,
        "rounds": rounds,
        "throughput": [_throughput(batch, rounds, options.quick) for batch in BATCHES],
        "checkpoint": _checkpoint(20 if options.quick else 100),
        "memory": _memory(20 if options.quick else 500),
    }
    found["targets"] = _targets(found)
    docs = ROOT / "runs" / "bench-quick" if options.quick else ROOT / "docs"
    kept = docs / "results" / "runs.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    text = runs_table(found)
    print(f"\n{text}\n")
    if not options.quick:
        replace_between(docs / "benchmarks.md", "runs", text)
    for row in found["targets"]:
        print("PASS" if row["met"] else "MISS", row["target"], "-", row["measured"])


def _work(batch: int, updates: int, out: str) -> None:
    """Seconds an update, in one of some processes."""
    with processes.joined():
        config = resolve_config(batch_size=batch)
        data = load_dataset("mnist")
        trainer = Trainer(flowvae.build_vae(config, data.data_shape), data, config.training)
        _updates(trainer, max(5, updates // 5))
        start = time.perf_counter()
        _updates(trainer, updates)
        seconds = (time.perf_counter() - start) / updates
        if processes.is_first():
            Path(out).write_text(json.dumps(seconds))


def _updates(trainer: Trainer, count: int) -> None:
    while count > 0:
        count -= sum(1 for _ in islice(trainer.steps(), count))


def _throughput(batch: int, rounds: int, quick: bool) -> dict[str, Any]:
    cores = os.cpu_count() or 1
    updates = (20 if quick else 400) * 100 // batch
    times: dict[str, list[float]] = {"one": [], "several": []}
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "seconds.json")
        work = ["--work", json.dumps({"batch": batch, "updates": updates, "out": out})]
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(cores)]
        commands = {
            "one": ["-m", "benchmarks.runs", *work],
            "several": [*launch, "-m", "benchmarks.runs", *work],
        }
        for _ in range(rounds):
            for name, command in commands.items():
                threads = str(cores if name == "one" else 1)
                environment = {**os.environ, "OMP_NUM_THREADS": threads}
                subprocess.run(
                    [sys.executable, *command],
                    env=environment,
                    cwd=ROOT,
                    check=True,
                    capture_output=True,
                )
                times[name].append(1e3 * json.loads(Path(out).read_text()))
    shown = {name: median(values) for name, values in times.items()}
    return {
        "batch": batch,
        "processes": cores,
        **{f"{name}_ms": value for name, (value, _) in shown.items()},
        **ratio(times["one"], times["several"]),
    }


def _checkpoint(count: int) -> dict[str, Any]:
    """Of preset ``original`` after some updates."""
    torch.set_num_threads(os.cpu_count() or 1)
    data = part_of(load_dataset("mnist"), 6000)
    config = resolve_config(data="mnist")
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), config, flowvae.build_vae(config, data.data_shape), data)
        book = begin(run, data)
        _updates(book.trainer, 10)
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            book.write()
            seconds.append(time.perf_counter() - start)
        size = (Path(folder) / "checkpoint.safetensors").stat().st_size
    middle, error = median(seconds)
    return {"seconds": middle, "seconds_se": error, "megabytes": size / 1e6, "share": middle / 60}


def _memory(epochs: int) -> dict[str, Any]:
    """Resident memory after the first tenth of the epochs and after the last."""
    data = part_of(load_dataset("mnist"), 1000)
    data = Dataset(data.name, data.train, Split(data.test.data[:500]), data.data_shape)
    seen: list[int] = []

    def look(*_: Any) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seen.append(pages * os.sysconf("SC_PAGE_SIZE"))

    with tempfile.TemporaryDirectory() as folder:
        flowvae.train(
            dataset=data,
            out=Path(folder) / "run",
            epochs=epochs,
            checkpoint_minutes=0.05,
            progress=False,
            finish=False,
            on_epoch=look,
        )
    early, late = seen[len(seen) // 10], seen[-1]
    return {
        "epochs": epochs,
        "early_mb": early / 1e6,
        "late_mb": late / 1e6,
        "growth": late / early - 1,
    }


def _targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for each in found["throughput"]:
        asked, got = ASKED[each["batch"]], each["ratio"]
        what = f"{each['processes']} processes at batch {each['batch']:,}: at least {asked}"
        measured = f"{got:.2f} ± {each['ratio_se']:.2f}"
        rows.append({"target": what, "measured": measured, "met": got >= asked})
    share, growth = found["checkpoint"]["share"], found["memory"]["growth"]
    rows.append(
        {
            "target": "a checkpoint every minute: under 1% of training time",
            "measured": f"{share:.2%}",
            "met": share < CHECKPOINT_SHARE,
        }
    )
    rows.append(
        {
            "target": f"memory over {found['memory']['epochs']} epochs: growth under 1%",
            "measured": f"{growth:.2%}",
            "met": growth < MEMORY_GROWTH,
        }
    )
    return rows


def runs_table(found: dict[str, Any]) -> str:
    lines = [
        "| batch | one process, all threads | one process a core | updates a second, ratio |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {each['batch']:,} | {each['one_ms']:.1f} ms | {each['several_ms']:.1f} ms | "
        f"{each['ratio']:.2f} ± {each['ratio_se']:.2f} |"
        for each in found["throughput"]
    ]
    kept, memory = found["checkpoint"], found["memory"]
    lines.append(
        f"\nA checkpoint of {kept['megabytes']:.0f} MB takes {1e3 * kept['seconds']:.0f} ± "
        f"{1e3 * kept['seconds_se']:.0f} ms until it is on the disk. Memory after "
        f"{memory['epochs'] // 10} and after {memory['epochs']} epochs of 1,000 images: "
        f"{memory['early_mb']:.0f} and {memory['late_mb']:.0f} MB."
    )
    lines.append("\n| asked | measured | |\n|---|---|---|")
    lines += [
        f"| {row['target']} | {row['measured']} | {'met' if row['met'] else 'missed'} |"
        for row in found["targets"]
    ]
    lines.append(
        f"\nPreset `original` on MNIST; median ± its standard error over {found['rounds']} rounds, "
        f"in turn. {found['machine']}, torch {found['torch']}, {found['date']}. Made by "
        "`python -m benchmarks.runs`."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

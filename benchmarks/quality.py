"""Seconds of training until the test pseudo-ELBO passes a bound, side by side.

    python -m benchmarks.quality [--seeds N] [--limit SECONDS] [--only NAME …] [--quick]

MNIST in grey, D = 2. Every contestant trains in a process of its own, one after another, on all
cores, and is evaluated after each epoch by one draw of z for each of the 10,000 test images; the
clock stands still meanwhile, and while data are read and models built. A contestant stops at the
last bound (but for preset ``quick``), at the end of its own epochs, or at the limit. What other
projects bring is taken as they bring it: their layers and flows, the tutorial's widths and rate.
Table and plot go to ``docs/benchmarks.md``, ``docs/images/quality.png`` and
``docs/results/quality.json``; ``--quick`` is to see that this program works and writes to
``runs/bench-quick``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.report import replace_between
from benchmarks.starting_script import StartingScript
from flowvae import build_vae, preset
from flowvae.data import Dataset, load_dataset
from flowvae.device import machine
from flowvae.evaluation import evaluate_model
from flowvae.reproduction.page import mean_and_error
from flowvae.training import Trainer

ROOT = Path(__file__).parents[1]
BOUNDS = (-150.0, -146.0, -144.0, -140.0)
HIDDEN, D, K, BATCH, RATE = 500, 2, 3, 100, 1e-3


class Contestant(Protocol):
    """Something that can be trained for one more epoch, and evaluated."""

    epochs: int

    def epoch(self) -> Any: ...

    def elbo(self) -> float: ...


class Preset:
    """A preset of flowvae."""

    def __init__(self, name: str, data: Dataset, seed: int, **more: Any) -> None:
        config = preset(name).replace(seed=seed, **more)
        self.data, self.epochs = data, config.training.epochs
        self.model = build_vae(config, data.data_shape)
        self.trainer = Trainer(self.model, data, config.training, config.objective, seed)

    def epoch(self) -> None:
        for _ in self.trainer.steps():
            pass

    def elbo(self) -> float:
        with self.trainer.averaged_weights():
            return evaluate_model(self.model, self.data.test, 1)["elbo"].mean


class Script:
    """The corrected script of the tutorial."""

    epochs = 100

    def __init__(self, data: Dataset, seed: int) -> None:
        torch.manual_seed(seed)
        train, labels = data.train, data.train.labels
        assert labels is not None  # noqa: S101 - MNIST has them
        pixels = train.values(slice(None)).mul(255).round().byte().view(-1, 28, 28).numpy()
        self.script = StartingScript(pixels, labels.numpy(), "cpu")
        self.test = data.test.values(slice(None))
        self.epoch = self.script.epoch

    def elbo(self) -> float:
        return self.script.elbo(self.test)


class Pythae:
    """A model of pythae, its layers and its loss, with PyTorch's loader as its trainer has it."""

    epochs = 100

    def __init__(self, flows: int, data: Dataset, seed: int) -> None:
        from pythae.models import VAE, VAE_LinNF, VAE_LinNF_Config, VAEConfig

        torch.manual_seed(seed)
        common: dict[str, Any] = {
            "input_dim": (1, 28, 28),
            "latent_dim": D,
            "reconstruction_loss": "bce",
        }
        if flows:
            self.model: Any = VAE_LinNF(VAE_LinNF_Config(**common, flows=["Planar"] * flows))
        else:
            self.model = VAE(VAEConfig(**common))
        train = data.train.values(slice(None)).view(-1, 1, 28, 28)
        self.loader = DataLoader(TensorDataset(train), batch_size=BATCH, shuffle=True)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)
        self.test = data.test.values(slice(None)).view(-1, 1, 28, 28)

    def epoch(self) -> None:
        for (x,) in self.loader:
            self.optimizer.zero_grad()
            self.model({"data": x}).loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def elbo(self) -> float:
        losses = [self.model({"data": x}).loss.item() for x in self.test.split(1000)]
        return -statistics.mean(losses)


class Pyro:
    """Pyro's VAE example, with its conditional planar flows on the guide."""

    epochs = 100

    def __init__(self, data: Dataset, seed: int) -> None:
        import pyro
        import pyro.distributions as dist
        from pyro.distributions.transforms import conditional_planar
        from pyro.infer import SVI, Trace_ELBO

        pyro.set_rng_seed(seed)
        pyro.clear_param_store()
        encoder = nn.Sequential(nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * D))
        decoder = nn.Sequential(nn.Linear(D, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 784))
        flows = nn.ModuleList(conditional_planar(D, 784, hidden_dims=[HIDDEN]) for _ in range(K))

        def model(x: Tensor) -> None:
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                zero = x.new_zeros(len(x), D)
                z = pyro.sample("latent", dist.Normal(zero, 1.0).to_event(1))
                likelihood: Any = dist.Bernoulli(logits=decoder(z), validate_args=False)
                pyro.sample("obs", likelihood.to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            pyro.module("encoder", encoder)
            pyro.module("flows", flows)
            with pyro.plate("data", len(x)):
                loc, log_var = encoder(x).chunk(2, -1)
                base = dist.Normal(loc, (0.5 * log_var).exp()).to_event(1)
                bent = [flow.condition(x) for flow in flows]  # pyright: ignore
                pyro.sample("latent", dist.TransformedDistribution(base, bent))

        self.svi = SVI(model, guide, pyro.optim.Adam({"lr": RATE}), loss=Trace_ELBO())  # pyright: ignore
        train = data.train.values(slice(None))
        self.loader = DataLoader(TensorDataset(train), batch_size=BATCH, shuffle=True)
        self.test = data.test.values(slice(None))

    def epoch(self) -> None:
        for (x,) in self.loader:
            self.svi.step(x)

    def elbo(self) -> float:
        losses: list[Any] = [self.svi.evaluate_loss(x) for x in self.test.split(1000)]
        return -sum(losses) / len(self.test)


CONTESTANTS: dict[str, Callable[[Dataset, int], Contestant]] = {
    "tutorial's script, corrected": Script,
    "Pyro, conditional planar K = 3": Pyro,
    "pythae VAE": lambda data, seed: Pythae(0, data, seed),
    "pythae VAE_LinNF, planar K = 3": lambda data, seed: Pythae(K, data, seed),
    "flowvae original": lambda data, seed: Preset("original", data, seed),
    "flowvae gaussian": lambda data, seed: Preset("gaussian", data, seed),
    "flowvae planar": lambda data, seed: Preset("planar", data, seed),
    "flowvae best": lambda data, seed: Preset("best", data, seed),
    "flowvae quick": lambda data, seed: Preset("quick", data, seed),
    "flowvae quick, bfloat16": lambda data, seed: Preset("quick", data, seed, precision="bfloat16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="of preset quick; others have 1")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds of training")
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # one contestant, in its own process
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_race(options.one, options.seed, options.limit, options.quick)))
        return
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "command": " ".join(["python -m benchmarks.quality", *map(shlex.quote, sys.argv[1:])]),
        "limit": options.limit,
        "bounds": BOUNDS,
        "runs": [],
    }
    for name in options.only:
        for seed in range(options.seeds if name.startswith("flowvae quick") else 1):
            command = [sys.executable, "-m", "benchmarks.quality", "--one", name]
            command += ["--seed", str(seed), "--limit", str(options.limit)]
            command += ["--quick"] if options.quick else []
            done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                why = done.stderr.strip().splitlines()[-1]
                print(f"{name}: left out, {why}", flush=True)
                found["runs"].append({"name": name, "seed": seed, "left_out": why})
                continue
            run = json.loads(done.stdout.splitlines()[-1])
            found["runs"].append(run)
            print(f"{name}, seed {seed}: {_passed(run)}", flush=True)
    docs = ROOT / "runs" / "bench-quick" if options.quick else ROOT / "docs"
    for folder in (docs / "results", docs / "images"):
        folder.mkdir(parents=True, exist_ok=True)
    (docs / "results" / "quality.json").write_text(json.dumps(found, indent=2) + "\n")
    _plot(found, docs / "images" / "quality.png")
    table = quality_table(found)
    print(table)
    if not options.quick:
        picture = "![Test pseudo-ELBO against seconds of training](images/quality.png)"
        replace_between(docs / "benchmarks.md", "quality", f"{table}\n\n{picture}")


def _race(name: str, seed: int, limit: float, quick: bool) -> dict[str, Any]:
    data = load_dataset("mnist")
    contestant = CONTESTANTS[name](data, seed)
    seconds, curve = 0.0, []
    for _ in range(2 if quick else contestant.epochs):
        start = time.perf_counter()
        contestant.epoch()
        seconds += time.perf_counter() - start
        curve.append([round(seconds, 3), round(contestant.elbo(), 4)])
        if seconds > limit or (curve[-1][1] > BOUNDS[-1] and not name.startswith("flowvae quick")):
            break
    return {"name": name, "seed": seed, "curve": curve}


def _passed(run: dict[str, Any]) -> dict[float, float | None]:
    """For each bound the seconds at the end of the first epoch with a better ELBO."""
    return {
        bound: next((seconds for seconds, elbo in run["curve"] if elbo > bound), None)
        for bound in BOUNDS
    }


def quality_table(found: dict[str, Any]) -> str:
    header = ["", *(f"−{abs(bound):g}" for bound in BOUNDS), "at the end", "after"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in dict.fromkeys(run["name"] for run in found["runs"]):
        runs = [run for run in found["runs"] if run["name"] == name]
        if "left_out" in runs[0]:
            lines.append(f"| {name} | left out: {runs[0]['left_out']} |" + " |" * (len(header) - 2))
            continue
        cells = []
        for bound in BOUNDS:
            times = [_passed(run)[bound] for run in runs]
            known = [t for t in times if t is not None]
            part = "" if len(known) == len(times) else f" ({len(known)} of {len(times)} runs)"
            cells.append(f"{mean_and_error(known)} s{part}" if known else "–")
        cells.append(mean_and_error([run["curve"][-1][1] for run in runs]))
        cells.append(f"{statistics.mean(run['curve'][-1][0] for run in runs):.0f} s")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    seeds = 1 + max(run["seed"] for run in found["runs"])
    lines.append(
        "\nSeconds of training until the test pseudo-ELBO, taken after each epoch, passes a bound; "
        f"mean ± standard error over {seeds} seed{'s' if seeds > 1 else ''} of preset quick, one "
        "seed of the others, which stop at the last bound. A dash: not within "
        f"{found['limit']:.0f} s or its own epochs. "
        f"{found['machine']}, {found['threads']} threads, torch {found['torch']}, "
        f"{found['date']}. Made by `{found['command']}`."
    )
    return "\n".join(lines)


def _plot(found: dict[str, Any], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(dict.fromkeys(run["name"] for run in found["runs"])):
        for run in found["runs"]:
            if run["name"] == name and "curve" in run:
                seconds, elbo = zip(*run["curve"], strict=True)
                label = name if run["seed"] == 0 else None
                style = "-" if name.startswith("flowvae") else "--"
                axes.plot(seconds, elbo, style, color=f"C{number}", label=label, linewidth=1.2)
    for bound in BOUNDS:
        axes.axhline(bound, color="0.8", linewidth=0.6, zorder=0)
    axes.set(xscale="log", xlabel="seconds of training", ylabel="test pseudo-ELBO, nats per image")
    axes.set_ylim(-165, None)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()

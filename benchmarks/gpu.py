"""Everything that needs a CUDA GPU, in one go: tests, speeds, and a run of 100 epochs.

    python3 -m benchmarks.gpu [--wheels FOLDER] [--out FOLDER] [--minutes 8] [STEP ...]

It asks of the machine a GPU and a Python that has PyTorch, not flowvae and no network: packages
that are missing are installed from a folder of wheels, into a folder of their own. Steps are
``planar``, ``training``, ``train`` and ``tests``; each has a log. Logs and figures are left in one
folder, ``runs/gpu`` by default, with ``summary.json``. Until packages are installed only the
standard library is used.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Modules that flowvae, its tests or these programs import, and the packages they come in.
NEEDED = {
    "annotated_types": "annotated-types",
    "beartype": "beartype",
    "click": "click",
    "hypothesis": "hypothesis",
    "jaxtyping": "jaxtyping",
    "matplotlib": "matplotlib",
    "mpmath": "mpmath",
    "numba": "numba",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic_core",
    "pyro": "pyro-ppl",
    "pyroapi": "pyro-api",
    "pytest": "pytest",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "sortedcontainers": "sortedcontainers",
    "triton": "triton",
    "typing_inspection": "typing-inspection",
    "yaml": "PyYAML",
    "zuko": "zuko",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help="all by default")
    parser.add_argument("--wheels", type=Path, default=ROOT / "wheels")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all steps together")
    options = parser.parse_args()
    out = options.out.resolve()
    python, measured = [sys.executable, "-m"], ["--device", "cuda", "--docs", str(out)]
    steps = {
        "planar": [*python, "benchmarks.planar", *measured],
        "training": [*python, "benchmarks.training", "--rounds", "3", *measured],
        "train": [*python, "flowvae", "train", "--device", "cuda", "--out", str(out / "run")],
        "tests": [*python, "pytest", "-m", "cuda", "-W", "default", "-p", "no:cacheprovider"],
    }
    steps["tests"] += ["-rfE", "--durations", "10", "tests"]
    if _has("xdist"):  # the kernels' compilers are what takes the time
        steps["tests"] += ["-n", str(min(12, os.cpu_count() or 1))]
    if unknown := set(options.steps) - set(steps):
        raise SystemExit(f"STEP: expected some of {', '.join(steps)}, got {', '.join(unknown)}")
    out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes
    environment = _environment(options.wheels, out)
    found = {"date": date.today().isoformat(), "machine": _machine(environment), "steps": {}}
    for name in options.steps or steps:
        found["steps"][name] = _run(steps[name], out / f"{name}.log", environment, ends)
        (out / "summary.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for name, step in found["steps"].items():
        print(f"{name}: {step['end']} after {step['seconds']:.0f} s, see {out / name}.log")
    sys.exit(any(step["end"] != "done" for step in found["steps"].values()))


def _environment(wheels: Path, out: Path) -> dict[str, str]:
    """Of the steps: with a folder into which what was missing is installed."""
    places = [str(ROOT / "src"), str(ROOT)]
    missing = [package for module, package in NEEDED.items() if not _has(module)]
    if missing:
        site = str(out / "site")
        install = ["install", "--quiet", "--no-index", "--no-deps", "--upgrade", "--target", site]
        print("installing", *missing, flush=True)
        command = [sys.executable, "-m", "pip", *install, "--find-links", str(wheels), *missing]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(
                f"--wheels: expected wheels of {', '.join(missing)} in {wheels}; where there is a "
                f"network `make wheels WHEELS='{' '.join(missing)}'` gets them"
            )
        places.insert(0, site)
    known = [p for p in (os.environ.get("PYTHONPATH"),) if p]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places + known), "PYTHONUNBUFFERED": "1"}


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _machine(environment: dict[str, str]) -> dict[str, str]:
    program = (
        "import json, platform, torch\n"
        "from importlib.util import find_spec\n"
        "assert torch.cuda.is_available(), 'torch finds no CUDA GPU'\n"
        "versions = {'python': platform.python_version(), 'torch': torch.__version__}\n"
        "if find_spec('triton'):\n"
        "    import triton\n"
        "    versions['triton'] = triton.__version__\n"
        "print(json.dumps({'gpu': torch.cuda.get_device_name()} | versions))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if shown.returncode:
        raise SystemExit(f"nothing measured, {shown.stderr.strip().splitlines()[-1]}")
    return json.loads(shown.stdout)


def _run(command: list[str], log: Path, environment: dict[str, str], ends: float) -> dict:
    print(*command[1:], flush=True)
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait(max(1.0, ends - start))
            end = "done" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            end = "out of time"
            process.send_signal(signal.SIGINT)  # so that pytest tells what failed until now
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", log.read_text(encoding="utf-8"))
    print("\n".join(text.strip().splitlines()[-40:]), flush=True)
    return {"end": end, "seconds": time.monotonic() - start}


if __name__ == "__main__":
    main()

"""The runs of a table: each in a folder and a process of its own, several at once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowvae.config import Config, load_config, resolve_config
from flowvae.errors import TrainingError, UserError
from flowvae.reproduction.description import Table

__all__ = ["Job", "Step", "chosen_rows", "jobs_of", "run_jobs"]

Command = list[str]


@dataclass(frozen=True)
class Step:
    """A command of a run.

    Args:
        command: gives the arguments of ``python -m``, for what is there by then.
        done: says whether it was done before.
    """

    command: Callable[[], Command]
    done: Callable[[], bool]


@dataclass(frozen=True)
class Job:
    """One run of a row.

    Args:
        row: the row's name.
        seed: of the run.
        folder: the run.
        steps: the commands that make it, in their order.
    """

    row: str
    seed: int
    folder: Path
    steps: tuple[Step, ...]

    @property
    def done(self) -> bool:
        return all(step.done() for step in self.steps)


def jobs_of(
    table: Table,
    out: Path,
    *,
    rows: Iterable[str] | None = None,
    seeds: int | None = None,
    more: Mapping[str, Any] | None = None,
    full: Mapping[str, int] | None = None,
    classify: Mapping[str, int] | None = None,
    device: str = "auto",
) -> list[Job]:
    """The runs of a table, under ``out``, seed by seed.

    Args:
        table: what to run.
        out: their folders' parent.
        rows: names of some rows; all if not given.
        seeds: how many; the table's if not given.
        more: settings in place of the rows' own.
        full: flags of the full evaluation in place of the table's own.
        classify: likewise of the classification.
        device: of all runs.

    Raises:
        UserError: a row is unknown.
    """
    chosen = chosen_rows(table, rows)
    jobs = []
    for seed in range(table.seeds if seeds is None else seeds):
        for row in table.rows:
            if row.name in chosen:
                folder = out / f"{slug(row.name)}-seed{seed}"
                settings = {**table.shared, **row.settings, **(more or {})}
                if table.program is None:
                    steps = _trained(table, settings, seed, folder, full, device)
                    steps += _classified(table, settings, folder, classify)
                else:
                    steps = [_programmed(table.program, settings, seed, folder)]
                jobs.append(Job(row.name, seed, folder, tuple(steps)))
    return jobs


def chosen_rows(table: Table, rows: Iterable[str] | None) -> list[str]:
    """The names of all rows, or those that are asked for."""
    names = [row.name for row in table.rows]
    chosen = names if rows is None else list(rows)
    for name in chosen:
        if name not in names:
            raise UserError(f"row: expected one of {'; '.join(names)}, got {name!r}")
    return chosen


def slug(name: str) -> str:
    """A row's name as that of a folder.

    Examples:
        >>> slug("D = 2, (500, 500), planar, K = 16")
        'd2-500-500-planar-k16'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace(" = ", "")).strip("-")


def _flags(settings: Mapping[str, Any]) -> Command:
    found = []
    for name, value in settings.items():
        shown = str(value).lower() if isinstance(value, bool) else value
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else shown
        found += [f"--{name.replace('_', '-')}", str(shown)]
    return found


def _trained(
    table: Table,
    settings: Mapping[str, Any],
    seed: int,
    folder: Path,
    full: Mapping[str, int] | None,
    device: str,
) -> list[Step]:
    expected = resolve_config(**{"preset": "original", **settings, "seed": seed})
    new = [*_flags(settings), "--seed", str(seed), "--out", str(folder)]

    def training() -> Command:
        begun = (folder / "config.yaml").exists()
        what = ["--resume", str(folder)] if begun else new
        return ["flowvae", "train", *what, "--quiet", "--device", device]

    steps = [Step(training, lambda: _is_trained(folder, expected))]
    if table.full is not None:
        flags = {**table.full, **(full or {})}
        command = ["flowvae", "evaluate", str(folder), "--full", "--json", "--device", device]
        command += _flags(flags)
        steps.append(Step(lambda: command, lambda: _is_evaluated(folder, flags)))
    return steps


def _is_trained(folder: Path, expected: Config) -> bool:
    """Whether the run is there, as it is expected.

    Raises:
        UserError: it is there with other settings.
    """
    if not (folder / "config.yaml").exists():
        return False
    found = load_config(folder / "config.yaml")
    training = expected.training.model_copy(update={"device": found.training.device})
    mine = (expected.model, expected.objective, training, expected.evaluation, expected.seed)
    mine = (*mine, _data_of(expected))
    theirs = (found.model, found.objective, found.training, found.evaluation, found.seed)
    if mine != (*theirs, _data_of(found)):
        raise UserError(f"out: {folder} is a run with other settings; expected another folder")
    try:
        return json.loads((folder / "environment.json").read_text())["status"] == "finished"
    except (OSError, ValueError, KeyError):  # it was killed before it had written that
        return False


def _data_of(config: Config) -> tuple[Any, ...]:
    return config.data.binarization, config.data.condition, config.data.labelled


def _classified(
    table: Table, settings: Mapping[str, Any], folder: Path, flags: Mapping[str, int] | None
) -> list[Step]:
    if table.classify is None or "condition" not in settings:
        return []
    chosen = {**table.classify, **(flags or {})}
    command = ["flowvae", "classify", str(folder), "--json", *_flags(chosen)]

    def done() -> bool:
        file = folder / "classification.json"
        if not file.exists():
            return False
        return json.loads(file.read_text())["samples"] == chosen["samples"]

    return [Step(lambda: command, done)]


def _is_evaluated(folder: Path, flags: Mapping[str, int]) -> bool:
    file = folder / "evaluation" / "full.json"
    if not file.exists():
        return False
    return flags.items() <= json.loads(file.read_text())["settings"].items()


def _programmed(program: str, settings: Mapping[str, Any], seed: int, folder: Path) -> Step:
    command = [program, *_flags(settings), "--seed", str(seed), "--out", str(folder)]

    def done() -> bool:
        file = folder / "energy.json"
        if not file.exists():
            return False
        found = json.loads(file.read_text())
        if {**settings, "seed": seed} != {name: found.get(name) for name in (*settings, "seed")}:
            raise UserError(f"out: {folder} is a run with other settings; expected another folder")
        return True

    return Step(lambda: command, done)


def run_jobs(jobs: list[Job], at_once: int, report: Callable[[str], None]) -> None:
    """Run what is not done yet; what was done stays whatever happens to the rest.

    Raises:
        TrainingError: some runs failed; all others are done.
    """
    waiting = [job for job in jobs if not job.done]
    if len(jobs) > len(waiting):
        report(f"{len(jobs) - len(waiting)} of {len(jobs)} are there already")
    if not waiting:
        return
    at_once = min(at_once, len(waiting))
    children = _Children(max(1, (os.cpu_count() or 1) // at_once))
    failed, finished = [], 0
    pool = ThreadPoolExecutor(at_once)
    try:
        futures = {pool.submit(children.run, job): job for job in waiting}
        for future in as_completed(futures):
            job = futures[future]
            try:
                future.result()
                finished += 1
                report(f"{finished} of {len(waiting)}: {job.row}, seed {job.seed}")
            except (TrainingError, UserError, OSError, ValueError) as error:
                failed.append(f"{job.row}, seed {job.seed}: {error}")
                report(f"failed: {failed[-1]}")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        children.stop()
        pool.shutdown()
    if failed:
        raise TrainingError(f"reproduce: {len(failed)} of {len(waiting)} runs failed; {failed[0]}")


class _Children:
    """The processes at work, which end when this one is stopped."""

    def __init__(self, threads: int) -> None:
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self._processes: set[subprocess.Popen[str]] = set()
        self._stopping, self._lock = False, threading.Lock()

    def run(self, job: Job) -> None:
        for step in job.steps:
            if not step.done():
                self._call(step.command())
                if not step.done() and not self._stopping:
                    raise TrainingError(f"{job.folder} was not made")

    def _call(self, command: Command) -> None:
        with self._lock:  # or one that starts while all are stopped would go on
            if self._stopping:
                return
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self._environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            self._processes.add(process)
        _, errors = process.communicate()
        self._processes.discard(process)
        if process.returncode:
            last = (errors.strip().splitlines() or ["it said nothing"])[-1]
            raise TrainingError(f"{last} (exit code {process.returncode})")

    def stop(self) -> None:
        """Ask all to end, which leaves a checkpoint, and wait for them."""
        with self._lock:
            self._stopping = True
            for process in self._processes:
                process.terminate()

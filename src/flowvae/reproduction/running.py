"""The runs of a table: each in a folder and a process of its own, several at once."""

from __future__ import annotations

import json
import os
import re
import shutil
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
from flowvae.reproduction.tables import Table

__all__ = ["Job", "Step", "chosen_rows", "jobs_of", "run_jobs"]

Command = list[str]


@dataclass(frozen=True)
class Step:
    """A command of a run.

    Args:
        command: arguments of ``python -m``.
        done: says whether it was done before.
        clears: the folder that it wants to find empty.
    """

    command: Command
    done: Callable[[], bool]
    clears: Path | None = None


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
    expected = resolve_config(preset="original", **settings, seed=seed)
    command = ["flowvae", "train", *_flags(settings), "--seed", str(seed)]
    command += ["--quiet", "--device", device, "--out", str(folder)]
    steps = [Step(command, lambda: _is_trained(folder, expected), clears=folder)]
    if table.full is not None:
        flags = {**table.full, **(full or {})}
        command = ["flowvae", "evaluate", str(folder), "--full", "--json", "--device", device]
        steps.append(Step([*command, *_flags(flags)], lambda: _is_evaluated(folder, flags)))
    return steps


def _is_trained(folder: Path, expected: Config) -> bool:
    """Whether the run is there, as it is expected."""
    if not (folder / "config.yaml").exists():
        return False
    found = load_config(folder / "config.yaml")
    parts = ("model", "objective", "evaluation", "seed")
    mine = [getattr(found, part) for part in parts]
    mine.append(found.training.model_copy(update={"device": expected.training.device}))
    if mine != [*(getattr(expected, part) for part in parts), expected.training]:
        raise UserError(f"out: {folder} is a run with other settings; expected another folder")
    return json.loads((folder / "environment.json").read_text())["status"] == "finished"


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
        if not {**settings, "seed": seed}.items() <= json.loads(file.read_text()).items():
            raise UserError(f"out: {folder} is a run with other settings; expected another folder")
        return True

    return Step(command, done)


def run_jobs(jobs: list[Job], at_once: int, report: Callable[[str], None]) -> None:
    """Run what is not done yet; what was done stays whatever happens to the rest.

    Raises:
        TrainingError: some runs failed; all others are done.
    """
    waiting = [job for job in jobs if not job.done]
    if len(jobs) > len(waiting):
        report(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are there already")
    threads = max(1, (os.cpu_count() or 1) // at_once)
    running, stopping = set(), threading.Event()

    def work(job: Job) -> None:
        for step in job.steps:
            if step.done() or stopping.is_set():
                continue
            if step.clears is not None and step.clears.exists():
                shutil.rmtree(step.clears)  # what is left of a run that was stopped
            _call(step.command, threads, running)

    failed, finished = [], 0
    pool = ThreadPoolExecutor(at_once)
    try:
        futures = {pool.submit(work, job): job for job in waiting}
        for future in as_completed(futures):
            job = futures[future]
            try:
                future.result()
                finished += 1
                report(f"{finished} of {len(waiting)}: {job.row}, seed {job.seed}")
            except TrainingError as error:
                failed.append(f"{job.row}, seed {job.seed}: {error}")
                report(f"failed: {failed[-1]}")
    finally:
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.terminate()
        pool.shutdown()
    if failed:
        raise TrainingError(f"reproduce: {len(failed)} of {len(waiting)} runs failed; {failed[0]}")


def _call(command: Command, threads: int, running: set[subprocess.Popen[str]]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    running.add(process)
    _, errors = process.communicate()
    running.discard(process)
    if process.returncode:
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        raise TrainingError(f"{last} (exit code {process.returncode})")

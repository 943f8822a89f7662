"""Make a table again: run what is missing, read what all runs found, write the page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowvae.data import load_dataset
from flowvae.device import choose_device
from flowvae.errors import UserError
from flowvae.files import replacing, write_json, write_text
from flowvae.reproduction.description import (
    QUICK,
    QUICK_CLASSIFY,
    QUICK_FULL,
    QUICK_PROGRAM,
    settings_of,
)
from flowvae.reproduction.energies import energies_figure
from flowvae.reproduction.page import reproduction_page
from flowvae.reproduction.running import Job, chosen_rows, jobs_of, run_jobs
from flowvae.reproduction.tables import TABLES

__all__ = ["Reproduction", "reproduce"]

_QUICK_TRAIN, _QUICK_TEST = 1500, 60  # at least 100 of each class


@dataclass(frozen=True)
class Reproduction:
    """A table that was made again.

    Args:
        found: the runs' figures, and how they came to be: what is written to ``NAME.json``.
        page: Markdown, written to ``NAME.md``.
        folder: where both are, and the runs.
    """

    found: Mapping[str, Any]
    page: str
    folder: Path


def reproduce(
    name: str,
    *,
    out: str | Path | None = None,
    quick: bool = False,
    rows: Sequence[str] | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    device: str = "auto",
    report: Callable[[str], None] | None = None,
) -> Reproduction:
    """Make a published table again, by training its models.

    Every run has a folder and a process of its own. A run that is done is not repeated, so a call
    that was stopped goes on where it was, and rows and seeds can be added by further calls. The
    page shows the published figures beside ours, differences paired by seed, date and machine.

    Args:
        name: one of :data:`TABLES`.
        out: where to write ``NAME.json``, ``NAME.md`` and the runs; ``runs/reproduce/NAME`` if not
            given, and ``runs/reproduce/NAME-quick`` with ``quick``.
        quick: a few steps on a small part of the data, to see that it works: no result.
        rows: names of the rows to run; all if not given.
        seeds: runs of each row, 0 to ``seeds`` - 1; as many as the table says if not given, and
            one with ``quick``.
        jobs: runs at once; one on a GPU, else as many as there are cores, if not given.
        device: of all runs.
        report: called with a line of text after each run.

    Raises:
        UserError: no such table or row, or a run in ``out`` has other settings.
        TrainingError: some runs failed; the others are done.

    Examples:
        >>> import flowvae
        >>> found = flowvae.reproduce("rezende2015-energies", quick=True, seeds=1, jobs=1,
        ...                           rows=["U1, K = 2"], out=tmp_path)
        >>> len(found.found["runs"]), "is no result" in found.page
        (1, True)
    """
    if name not in TABLES:
        raise UserError(f"reproduce: expected one of {', '.join(TABLES)}, got {name!r}")
    for what, value in (("seeds", seeds), ("jobs", jobs)):
        if value is not None and value < 1:
            raise UserError(f"{what}: expected at least 1, got {value}")
    table = TABLES[name]
    rows = chosen_rows(table, rows)
    seeds = seeds or (1 if quick else table.seeds)
    where = choose_device("cpu" if table.program else device)
    folder = Path(out or Path("runs") / "reproduce" / (f"{name}-quick" if quick else name))
    more: dict[str, Any] = {}
    if quick:
        more = QUICK_PROGRAM if table.program else _quick_settings(folder)
    options: dict[str, Any] = {
        "more": more,
        "full": QUICK_FULL if quick else None,
        "classify": QUICK_CLASSIFY if quick else None,
        "device": device,
    }
    planned = jobs_of(table, folder, rows=rows, seeds=seeds, **options)
    if jobs is None:
        jobs = (os.cpu_count() or 1) if where.type == "cpu" else 1
    most = max([seeds, table.seeds, *(seed + 1 for seed in _seeds_in(folder))])
    every = jobs_of(table, folder, seeds=most, **options)
    for job in every:
        _ = job.done  # a run with other settings is found before anything is done
    say = report or (lambda line: None)  # noqa: ARG005
    say(f"{name}: {len(planned)} run{'s' if len(planned) > 1 else ''} in {folder}")
    try:
        run_jobs(planned, jobs, say)
    finally:
        written = _write(name, every, folder, quick=quick)
    return written


def _seeds_in(folder: Path) -> set[int]:
    """The seeds of the runs that earlier calls left."""
    found = (re.search(r"-seed(\d+)$", path.name) for path in folder.glob("*-seed*"))
    return {int(match[1]) for match in found if match}


def _quick_settings(folder: Path) -> dict[str, Any]:
    """Settings of a quick run, and the small data it is trained on."""
    file = folder / "small.npz"
    if not file.exists():
        data = load_dataset("mnist")
        arrays = {}
        for name, count in (("train", _QUICK_TRAIN), ("test", _QUICK_TEST)):
            split = data.splits[name]
            values = split.values(slice(count)).reshape(-1, *data.data_shape)
            arrays[f"x_{name}"] = values.numpy()
            if split.labels is not None:  # of which some tables learn
                arrays[f"y_{name}"] = split.labels[:count].numpy()
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)
    return {**QUICK, "data": str(file)}


def _write(name: str, jobs: Sequence[Job], folder: Path, *, quick: bool) -> Reproduction:
    table = TABLES[name]
    runs = [figures for job in jobs if (figures := _read(job)) is not None]
    for run in runs:  # so that figures which are kept can be told from those of a later table
        run["settings"] = settings_of(table, run["row"])
    command = f"flowvae reproduce {name}" + (" --quick" if quick else "")
    found = {"table": name, "quick": quick, "command": command, "runs": runs}
    page = reproduction_page(found, table)
    write_json(folder / f"{name}.json", found)
    write_text(folder / f"{name}.md", f"# {table.title}\n\n{page}")
    drawn = {_energy_of(job): job.folder for job in jobs if table.program and _is_first(job)}
    if drawn:
        from flowvae.figures import save_figure

        save_figure(energies_figure(drawn), folder / f"{name}.png")
    return Reproduction(found, page, folder)


def _is_first(job: Job) -> bool:
    return job.seed == 0 and job.done


def _energy_of(job: Job) -> tuple[str, int]:
    settings = json.loads((job.folder / "energy.json").read_text())
    return settings["energy"], settings["num_flows"]


def _read(job: Job) -> dict[str, Any] | None:
    """What a finished run found; none where it is not there."""
    if not job.folder.exists() or not job.done:
        return None
    figures: dict[str, Any] = {}
    for file in ("evaluation.json", "evaluation/full.json", "energy.json", "classification.json"):
        if not (job.folder / file).exists():
            continue
        content = json.loads((job.folder / file).read_text())
        if file == "evaluation.json":
            figures |= {"terms": content["terms"], "samples": content["samples"]}
        elif file == "energy.json":
            figures["energy"] = content
        elif file == "classification.json":
            parts = ("bayes", "classifier", "log_prob", "log_prob_given_class", "samples", "count")
            figures["classification"] = {part: content[part] for part in parts}
        else:
            parts = ("gaps", "checks", "ais", "bdmc", "refined", "quadrature")
            figures["full"] = {part: content[part] for part in parts if part in content}
    about = _environment(job)
    return {"row": job.row, "seed": job.seed, **about, "figures": figures}


def _environment(job: Job) -> dict[str, Any]:
    file = job.folder / "environment.json"
    if not file.exists():
        content = json.loads((job.folder / "energy.json").read_text())
        return {each: content[each] for each in ("date", "torch", "machine")}
    found = json.loads(file.read_text())
    return {
        "date": found["started"][:10],
        "torch": found["versions"]["torch"],
        "machine": found["device_name"],
        "training_seconds": found["durations"]["training"],
    }

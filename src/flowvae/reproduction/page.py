"""A reproduced table as Markdown, from the figures of its runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from flowvae.evaluation.markdown import table
from flowvae.reproduction.description import Measure, Table

__all__ = ["mean_and_error", "reproduction_page", "value_of"]

Runs = Sequence[Mapping[str, Any]]


def mean_and_error(values: Sequence[float]) -> str:
    """Mean ± standard error of figures from several seeds; of one, the figure.

    Examples:
        >>> mean_and_error([1.0, 3.0]), mean_and_error([1.0])
        ('2.00 ± 1.00', '1.00')
    """
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}"


def value_of(run: Mapping[str, Any], measure: Measure) -> float | None:
    """The figure of a run that a measure names; none where runs of its kind have no such thing."""
    found: Any = run["figures"]
    for key in measure.path:
        if found is None or key not in found:
            return None
        found = found[key]
    if found is None:
        return None
    return measure.plus + measure.sign * (found["mean"] if isinstance(found, Mapping) else found)


def reproduction_page(found: Mapping[str, Any], described: Table) -> str:
    """The page of ``flowvae reproduce``: published figures beside ours, and paired differences.

    Args:
        found: what ``flowvae reproduce`` keeps: the runs' figures, and how they came to be.
        described: the table that they are of.
    """
    by_row = {
        row.name: [run for run in found["runs"] if run["row"] == row.name] for row in described.rows
    }
    first = described.measures[0]
    published = [
        measure
        for measure in described.measures
        if any(measure.heading in row.published for row in described.rows)
    ]
    header = [""]
    for measure in described.measures:
        header += [f"{measure.heading}, published"] if measure in published else []
        header += [measure.heading]
    header += [f"by seed ({first.heading})"]
    rows = []
    for row in described.rows:
        runs = by_row[row.name]
        cells = [row.name]
        for measure in described.measures:
            cells += [row.published.get(measure.heading, "")] if measure in published else []
            cells += [_cell(runs, measure)]
        singly = [value for run in runs if (value := value_of(run, first)) is not None]
        rows.append([*cells, ", ".join(f"{value:.2f}" for value in singly)])
    parts = []
    if found["quick"]:
        parts.append(
            "**Made with `--quick`, on a small part of the data: this shows that the command works "
            "and is no result.**"
        )
    parts += [f"Published: {described.source}."] if described.source else []
    parts += [described.text, table(header, rows)]
    paired = [line for pair in described.pairs if (line := _paired(by_row, *pair, described))]
    if paired:
        names = [measure.heading for measure in described.measures]
        parts += ["Differences, paired by seed:", table(["", *names, "seeds"], paired)]
    parts.append(_made(found, by_row))
    return "\n\n".join(parts) + "\n"


def _cell(runs: Runs, measure: Measure) -> str:
    if not runs:
        return "not measured"
    return _shown([value_of(run, measure) for run in runs])


def _shown(values: Sequence[float | None]) -> str:
    """Their mean and its error; a dash where there is no such figure."""
    there = [value for value in values if value is not None]
    return mean_and_error(there) if there else "–"


def _paired(by_row: Mapping[str, Runs], more: str, less: str, described: Table) -> list[str] | None:
    base = {run["seed"]: run for run in by_row[less]}
    both = [(run, base[run["seed"]]) for run in by_row[more] if run["seed"] in base]
    if not both:
        return None
    gains = [
        [_less(value_of(one, measure), value_of(other, measure)) for one, other in both]
        for measure in described.measures
    ]
    return [f"{more} − {less}", *map(_shown, gains), str(len(both))]


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _made(found: Mapping[str, Any], by_row: Mapping[str, Runs]) -> str:
    runs = found["runs"]
    if not runs:
        return f"Not run yet; `{found['command']}` does it."
    counts = sorted({len(each) for each in by_row.values() if each})
    seeds = " to ".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))
    dates = sorted({run["date"] for run in runs})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    spread = "one run a row" if counts == [1] else f"mean ± standard error over {seeds} seeds a row"
    return (
        f"Nats; {spread}. Runs of {when} on {'; '.join(sorted({run['machine'] for run in runs}))}; "
        f"torch {', '.join(sorted({run['torch'] for run in runs}))}. Made by `{found['command']}`."
    )

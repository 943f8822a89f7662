"""Writing measured results into documents."""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
from pathlib import Path

__all__ = ["machine", "mean_and_error", "replace_between"]


def replace_between(file: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name -->`` and ``<!-- /name -->`` in a Markdown file."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before = file.read_text(encoding="utf-8")
    if start not in before or end not in before:
        raise SystemExit(f"{file}: expected the marks {start} and {end}")
    head, tail = before.split(start)[0], before.split(end)[1]
    file.write_text(f"{head}{start}\n{text}\n{end}{tail}", encoding="utf-8")


def machine() -> str:
    """The machine in a few words: processor and number of cores."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        model = found.group(1).strip() if found else model
    return f"{model}, {os.cpu_count()} cores"


def mean_and_error(values: list[float]) -> str:
    """Mean ± standard error of figures from several seeds; of one, the figure."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}"

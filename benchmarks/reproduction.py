"""What ``flowvae reproduce`` found, into the documents.

    python -m benchmarks.reproduction [FOLDER …]

Each folder is one that ``flowvae reproduce NAME`` wrote. Its figures are kept in
``docs/results/reproduced/NAME.json``, its picture in ``docs/images``, and ``docs/reproduction.md``
is written anew from all that is kept; a table that was never run has rows without figures. Runs
that were kept before and are not in the folder stay, so a table may be made on several machines;
those of rows whose settings have changed since are dropped.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.report import replace_between
from flowvae.files import write_json
from flowvae.reproduction import TABLES
from flowvae.reproduction.description import settings_of
from flowvae.reproduction.page import reproduction_page

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "results" / "reproduced"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    for folder in parser.parse_args().folders:
        files = [folder / f"{name}.json" for name in TABLES if (folder / f"{name}.json").exists()]
        if len(files) != 1:
            raise SystemExit(f"{folder}: expected one table of 'flowvae reproduce', got {files}")
        file = files[0]
        if json.loads(file.read_text())["quick"]:
            raise SystemExit(f"{file}: made with --quick, which is no result")
        keep(json.loads(file.read_text()))
        if (picture := file.with_suffix(".png")).exists():
            shutil.copy(picture, ROOT / "docs" / "images" / picture.name)
    for name in TABLES:
        replace_between(ROOT / "docs" / "reproduction.md", name, section(name))


def keep(found: dict[str, Any]) -> None:
    """Put the runs of a folder beside, or in place of, those that are kept."""
    name = found["table"]
    table, file = TABLES[name], KEPT / f"{name}.json"
    runs = {(run["row"], run["seed"]): run for run in found["runs"]}
    names = [row.name for row in table.rows]
    if file.exists():
        for run in json.loads(file.read_text())["runs"]:
            row = run["row"]
            if row in names and run["settings"] == settings_of(table, row):
                runs.setdefault((row, run["seed"]), run)
    order = sorted(runs, key=lambda each: (each[1], names.index(each[0])))
    KEPT.mkdir(parents=True, exist_ok=True)
    write_json(file, {**found, "runs": [runs[each] for each in order]})


def section(name: str) -> str:
    """A table's part of the page, from what is kept of it."""
    file = KEPT / f"{name}.json"
    found: dict[str, Any] = {"quick": False, "command": f"flowvae reproduce {name}", "runs": []}
    if file.exists():
        found = json.loads(file.read_text())
    picture = ""
    if (ROOT / "docs" / "images" / f"{name}.png").exists():
        picture = f"\n![{TABLES[name].title}](images/{name}.png)\n"
    return f"## {TABLES[name].title}\n\n{reproduction_page(found, TABLES[name])}{picture}"


if __name__ == "__main__":
    main()

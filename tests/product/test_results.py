"""Figures in the documents are those of the files they came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.explorer import explorer_paragraph
from benchmarks.gallery import PICTURES
from benchmarks.gallery import section as gallery_section
from benchmarks.imputation import WRITTEN
from benchmarks.presets import results_table
from benchmarks.quality import quality_table
from benchmarks.refinement import refinement_table
from benchmarks.reproduction import KEPT, keep, section
from benchmarks.runs import runs_table
from flowvae.reproduction import TABLES
from flowvae.reproduction.description import settings_of

ROOT = Path(__file__).parents[2]


def _stored(name: str) -> Any:
    file = ROOT / "docs" / "results" / f"{name}.json"
    if not file.exists():
        pytest.skip(f"{name} is not measured yet")
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    ("name", "table", "documents"),
    [
        ("presets", results_table, ["README.md", "docs/results.md"]),
        ("refinement", refinement_table, ["docs/evaluation.md"]),
        ("runs", runs_table, ["docs/benchmarks.md"]),
        ("quality", quality_table, ["docs/benchmarks.md"]),
        ("explorer", explorer_paragraph, ["docs/explorer/index.md"]),
    ],
)
def test_tables_are_made_of_the_stored_figures(
    name: str, table: Callable[[Any], str], documents: list[str]
):
    found = _stored(name)
    for document in documents:
        text = (ROOT / document).read_text(encoding="utf-8")
        shown = text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
        shown = shown.split("![")[0]  # a picture may follow
        assert shown.strip() == table(found).strip(), document


@pytest.mark.parametrize("part", WRITTEN)
def test_tables_of_imputers_are_made_of_the_stored_figures(part: str):
    found = _stored("imputation")[part]
    mark, table = WRITTEN[part]
    text = (ROOT / "docs" / "missing.md").read_text(encoding="utf-8")
    shown = text.split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0]
    assert shown.strip() == table(found).strip()
    assert not found["quick"]


@pytest.mark.parametrize("name", TABLES)
def test_reproduced_tables_are_made_of_the_stored_figures(name: str):
    text = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    shown = text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
    assert shown.strip() == section(name).strip()
    if (kept := KEPT / f"{name}.json").exists():
        found = json.loads(kept.read_text())
        assert not found["quick"]
        for run in found["runs"]:
            assert run["settings"] == settings_of(TABLES[name], run["row"]), run["row"]


def test_the_gallery_shows_the_pictures_that_were_made():
    found = json.loads((ROOT / "docs" / "results" / "gallery.json").read_text())
    text = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    shown = text.split("<!-- gallery -->")[1].split("<!-- /gallery -->")[0]
    assert shown.strip() == gallery_section(found).strip()
    assert found.keys() == PICTURES.keys()
    assert all(about["command"] == PICTURES[key].command for key, about in found.items())
    files = {path.name for path in (ROOT / "docs" / "images").glob("gallery-*.png")}
    assert files == {f"gallery-{key.replace('_', '-')}.png" for key in found}


def test_runs_of_several_machines_make_one_table(tmp_path, monkeypatch):
    """What is kept stays beside what is new, unless its row was changed since or is gone."""
    monkeypatch.setattr("benchmarks.reproduction.KEPT", tmp_path)
    table = TABLES["encoders"]
    first, second = (row.name for row in table.rows[:2])

    def runs(*which: tuple[str, int, float], **more: Any) -> list[dict[str, Any]]:
        return [{"row": row, "seed": seed, "value": value, **more} for row, seed, value in which]

    kept = runs((first, 1, 1.0), (first, 2, 5.0), settings=settings_of(table, first))
    kept += runs((second, 0, 2.0), settings=settings_of(table, second))
    kept += runs((second, 1, 4.0), ("gone", 0, 3.0), settings={"epochs": 1})
    found = {"table": "encoders", "quick": False, "command": "c"}
    (tmp_path / "encoders.json").write_text(json.dumps({**found, "runs": kept}))
    keep({**found, "runs": runs((second, 0, 6.0), (first, 0, 7.0))})
    together = json.loads((tmp_path / "encoders.json").read_text())
    assert {key: together[key] for key in found} == found
    order = [(run["row"], run["seed"], run["value"]) for run in together["runs"]]
    assert order == [(first, 0, 7.0), (second, 0, 6.0), (first, 1, 1.0), (first, 2, 5.0)]

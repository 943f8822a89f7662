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
from benchmarks.reproduction import KEPT, section
from benchmarks.runs import runs_table
from flowvae.reproduction import TABLES

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
    kept = KEPT / f"{name}.json"
    assert not kept.exists() or not json.loads(kept.read_text())["quick"]


def test_the_gallery_shows_the_pictures_that_were_made():
    found = json.loads((ROOT / "docs" / "results" / "gallery.json").read_text())
    text = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    shown = text.split("<!-- gallery -->")[1].split("<!-- /gallery -->")[0]
    assert shown.strip() == gallery_section(found).strip()
    assert found.keys() == PICTURES.keys()
    assert all(about["command"] == PICTURES[key].command for key, about in found.items())
    files = {path.name for path in (ROOT / "docs" / "images").glob("gallery-*.png")}
    assert files == {f"gallery-{key.replace('_', '-')}.png" for key in found}

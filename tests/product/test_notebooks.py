"""The notebooks of the documentation: they run, and what they show is of a whole run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

from benchmarks.notebooks import NOTEBOOKS, run_notebook

# Enough to run every cell: what is learned is of no use.
FEW = {
    "posterior": {"epochs": 1, "samples": 2},
    "own_data": {"epochs": 2, "image_epochs": 2},
}
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))


def test_all_are_listed():
    assert {path.stem for path in PATHS} == set(FEW)


def outputs(notebook) -> list:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_kept(path, tmp_path):
    """Every cell gives outputs of the kinds that the committed ones have."""
    if path.stem == "own_data":
        pytest.importorskip("sklearn")
    found = run_notebook(path, tmp_path, FEW[path.stem], timeout=300)
    kept = nbformat.read(path, as_version=4)
    for cell, before in zip(found.cells, kept.cells, strict=True):
        if cell.cell_type == "code":
            kinds = [
                [(output.output_type, *sorted(output.get("data", {}))) for output in each.outputs]
                for each in (cell, before)
            ]
            assert kinds[0] == kinds[1], cell.source
    assert (tmp_path / "runs").is_dir()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_is_kept_is_of_one_run_from_top_to_bottom(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for output in outputs(notebook)}
    assert kinds <= {"display_data", "execute_result", "stream"}
    streams = [output for output in outputs(notebook) if output.output_type == "stream"]
    assert {stream.name for stream in streams} <= {"stdout"}  # no warnings
    texts = [re.sub('base64,[^"]+', "", str(output)) for output in outputs(notebook)]
    texts = [re.sub(r"'image/png': '[^']+'", "", text) for text in texts]
    assert not [text for text in texts if re.search("/(home|tmp|root|Users)/", text)]
    assert path.stat().st_size < 2e6


def test_a_parameter_that_there_is_not(tmp_path):
    with pytest.raises(ValueError, match="expected a parameter nosuch"):
        run_notebook(PATHS[0], Path(tmp_path), {"nosuch": 1})

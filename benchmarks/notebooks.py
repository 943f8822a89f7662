"""Run the notebooks of the documentation and keep their outputs, so that readers see them.

    python -m benchmarks.notebooks             # all of docs/notebooks, some minutes
    python -m benchmarks.notebooks own_data    # one

Needs `pip install "flowvae[test]"`. `tests/product/test_notebooks.py` runs the same cells with
fewer epochs.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from flowvae.files import write_text

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


def run_notebook(
    path: Path, folder: Path, parameters: Mapping[str, Any] | None = None, timeout: int = 1200
) -> Any:
    """The notebook after a run in a kernel of its own, in ``folder``.

    Args:
        path: of the notebook.
        folder: where the cells run.
        parameters: other values for the cell with the tag ``parameters``, by name.
        timeout: seconds that a cell may take.

    Raises:
        CellExecutionError: a cell failed; its code and the error are in the message.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in (parameters or {}).items():
                cell.source, found = re.subn(
                    rf"^{name} = .*$", f"{name} = {value!r}", cell.source, flags=re.MULTILINE
                )
                if not found:
                    raise ValueError(f"{path.name}: expected a parameter {name}, got none")
    return NotebookClient(
        notebook, timeout=timeout, record_timing=False, resources={"metadata": {"path": folder}}
    ).execute()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="of the notebooks; all if none is given")
    arguments = parser.parse_args()
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if arguments.names and path.stem not in arguments.names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = run_notebook(path, Path(folder))
        notebook.metadata.pop("widgets", None)
        # The versions of the machine that ran it are no part of the document.
        notebook.metadata["language_info"] = {"name": "python"}
        write_text(path, nbformat.writes(notebook) + "\n")
        print(f"Wrote {path}")


if __name__ == "__main__":
    main()

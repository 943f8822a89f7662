"""For the doctests of src: a folder to write to, and no file whose optional package is missing."""

from importlib.util import find_spec
from pathlib import Path

import pytest

_KERNELS = "src/flowvae/kernels"
_NEEDS = {
    "numba": [
        *(f"{_KERNELS}/{part}.py" for part in ("compile", "math", "vectors")),
        *map(str, Path(_KERNELS, "planar").glob("cpu*.py")),
        "tests/helpers/guard_pages.py",
    ],
    "triton": [f"{_KERNELS}/planar/cuda.py"],
    "sklearn": [f"src/flowvae/{m}.py" for m in ("estimator", "estimator_training", "imputer")],
}
collect_ignore = [f for need, files in _NEEDS.items() if not find_spec(need) for f in files]


@pytest.fixture(autouse=True)
def _doctest_paths(doctest_namespace: dict[str, object], tmp_path: Path) -> None:
    doctest_namespace["tmp_path"] = tmp_path

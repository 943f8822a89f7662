"""For the doctests of src: a folder to write to, and no kernels whose compiler is not installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest

_KERNELS = "src/flowvae/flows/kernels"
_NEEDS = {"cpu": "numba", "cpu_math": "numba", "cpu_shared": "numba", "cpu_launch": "numba"}
_NEEDS["cuda"] = "triton"
collect_ignore = [f"{_KERNELS}/{file}.py" for file, need in _NEEDS.items() if not find_spec(need)]


@pytest.fixture(autouse=True)
def _doctest_paths(doctest_namespace: dict[str, object], tmp_path: Path) -> None:
    doctest_namespace["tmp_path"] = tmp_path

"""For the doctests of src: a folder to write to, and no kernels whose compiler is not installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest

_FLOWS, _OTHERS = "src/flowvae/flows/kernels", "src/flowvae/kernels"
_NEEDS = {
    "numba": [
        *(f"{_FLOWS}/cpu{part}.py" for part in ("", "_launch", "_layers", "_math", "_shared")),
        f"{_FLOWS}/cpu_vectors.py",
        *(f"{_OTHERS}/{file}.py" for file in ("gaussian", "bernoulli")),
    ],
    "triton": [f"{_FLOWS}/cuda.py"],
}
collect_ignore = [f for need, files in _NEEDS.items() if not find_spec(need) for f in files]


@pytest.fixture(autouse=True)
def _doctest_paths(doctest_namespace: dict[str, object], tmp_path: Path) -> None:
    doctest_namespace["tmp_path"] = tmp_path

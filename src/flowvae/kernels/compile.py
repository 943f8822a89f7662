"""How kernels are compiled: three decorators, and where what was compiled is kept.

numba keeps a compiled function beside the stamp of the file that it stands in, and does not see
that a file from which it takes others has changed. So the folder of the cache is named after all
sources of all kernels: an edited source is never served from what was compiled of another.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba

__all__ = ["exact", "fast", "inline"]

_HERE = Path(__file__).parent
_EXACT: dict[str, Any] = {"error_model": "numpy", "nogil": True}
_REASSOCIATED = {"fastmath": {"reassoc", "contract", "nsz"}}


def inline(function: Callable) -> Any:
    """Written into its callers, and compiled with them."""
    return numba.njit(**_EXACT, inline="always")(function)


def exact(function: Callable) -> Any:
    """Compiled, and kept for the next process; every operation is done as it is written."""
    return _kept(function, **_EXACT)


def fast(function: Callable) -> Any:
    """As :func:`exact`, but sums may be taken in another order."""
    return _kept(function, **_EXACT, **_REASSOCIATED)


def _kept(function: Callable, **options: Any) -> Any:
    folder = _folder()
    if folder is None:
        return numba.njit(**options)(function)
    with _cached_in(folder):
        return numba.njit(**options, cache=True)(function)


@contextlib.contextmanager
def _cached_in(folder: Path) -> Iterator[None]:
    """numba takes the place of its cache from its settings when a function is decorated."""
    settings: Any = numba.config  # pyright: ignore[reportPrivateImportUsage]
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(folder)
    try:
        yield
    finally:
        settings.CACHE_DIR = before


@cache
def _folder() -> Path | None:
    """Where to keep what is compiled: the first place that can be written to, if there is one."""
    places = _places()
    for place in places:
        folder = place / f"flowvae-kernels-{_digest()}"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            return folder
    warnings.warn(
        "compiled kernels cannot be kept, so every process compiles them anew, which takes some "
        f"seconds: expected a folder that can be written to among {', '.join(map(str, places))}; "
        "name another by NUMBA_CACHE_DIR",
        stacklevel=2,
    )
    return None


def _places() -> list[Path]:
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        return [Path(named)]
    places = [_HERE / "__pycache__"]
    if named := os.environ.get("XDG_CACHE_HOME"):
        return [*places, Path(named)]
    with contextlib.suppress(RuntimeError):  # no home is known
        places.append(Path.home() / ".cache")
    return places


def _digest() -> str:
    found = hashlib.sha256(numba.__version__.encode())
    for source in sorted(_HERE.rglob("*.py")):
        found.update(source.read_bytes())
    return found.hexdigest()[:16]

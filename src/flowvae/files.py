"""Files written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowvae.errors import UserError

__all__ = ["replacing", "write_bytes", "write_csv", "write_json", "write_text"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder, and move it over ``path`` if all went well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: some writers choose the format by it.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: str | Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write it as JSON, which has no NaN and no infinity.

    Raises:
        UserError: a number is not finite; the message names it.
    """
    if (found := _not_finite(value)) is not None:
        name, number = found
        raise UserError(f"{Path(path).name}: expected finite numbers, got {number} for {name}")
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _not_finite(value: Any, name: str = "") -> tuple[str, float] | None:
    """The first number that is not finite, with the keys that lead to it."""
    if isinstance(value, float):
        return None if math.isfinite(value) else (name, value)
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, each in items:
        if (found := _not_finite(each, f"{name}.{key}".lstrip("."))) is not None:
            return found
    return None


def write_csv(path: str | Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())

"""Files written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowvae.errors import UserError

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "is_temporary",
    "remove_leftovers",
    "replacing",
    "replacing_folder",
    "suffix_among",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_npz",
    "write_text",
]


_TEMPORARY = ".new-"

# Windows replaces no file that someone has open, and scanners open what is new: seconds to wait.
_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8) if os.name == "nt" else ()


@contextmanager
def replacing(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path in the same folder, and move it over ``path`` if all went well.

    Args:
        path: the file.
        durable: wait until its content is on the disk before it takes the old one's place.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    path = Path(path)
    temporary = None
    with _naming(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The suffix stays: some writers choose the format by it.
            prefix = f"{_TEMPORARY}{path.stem[:16]}-"  # a name may be as long as the system allows
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            if durable:
                _synchronize(temporary)
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private
            _put_in_place(temporary, path)
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What goes wrong without a name, as on a full disk, or under a temporary one names path."""
    try:
        yield
    except OSError as error:
        name = error.filename
        unknown = name is None or any(map(is_temporary, Path(os.fsdecode(name)).parts))
        if error.errno is None or not unknown:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def _put_in_place(temporary: Path, path: Path) -> None:
    for seconds in _WAITS:
        try:
            temporary.replace(path)
            return
        except PermissionError:
            time.sleep(seconds)
    temporary.replace(path)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Give a new folder beside ``path``, and put it in that folder's place if all went well.

    Args:
        path: the folder; one that is there is removed, with all that is in it.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    path = Path(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=path.parent, prefix=_TEMPORARY, ignore_cleanup_errors=True
        ) as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            yield new
            try:
                if path.exists():
                    path.rename(old)
                new.rename(path)
            except BaseException:  # Ctrl-C, too
                if old.exists() and not path.exists():
                    old.rename(path)
                raise


def is_temporary(path: Any) -> bool:
    """Whether it is a file that a process was about to put in another's place."""
    return Path(os.fsdecode(path)).name.startswith(_TEMPORARY)


def _synchronize(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed, in a folder and those below it."""
    for path in list(folder.rglob(f"{_TEMPORARY}*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: str | Path, content: bytes, *, durable: bool = False) -> None:
    with replacing(path, durable=durable) as temporary:
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


def write_npz(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    import numpy as np

    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # pyright: ignore[reportArgumentType]


def suffix_among(out: str | Path, *allowed: str) -> str:
    """The ending of a file's name, in small letters, by which its kind is chosen.

    Raises:
        UserError: it is none of those.
    """
    suffix = Path(out).suffix.lower()
    if suffix not in allowed:
        raise UserError(f"out: expected a file ending in {' or '.join(allowed)}, got {out}")
    return suffix

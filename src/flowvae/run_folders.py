"""The folder of a run: a new one, an old one to go on with, and who may write to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flowvae.config import Config, load_config, outside_modules
from flowvae.config.files import read_yaml
from flowvae.errors import UserError
from flowvae.files import is_temporary, remove_leftovers

__all__ = ["check_trust", "new_run_folder", "only_writer", "read_config"]

_LOCK = ".lock"


def new_run_folder(out: str | Path | None, config: Config) -> Path:
    """Check that a run can be written to ``out``, or choose a dated folder under ``runs/``."""
    if out is None:
        now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        stem = f"{now}_{config.preset}_seed{config.seed}"
        names = [stem, *(f"{stem}_{n}" for n in range(2, 100))]
        return next(Path("runs") / name for name in names if not (Path("runs") / name).exists())
    out = Path(out)
    # What a process that was killed at once leaves is not in anyone's way.
    if out.exists() and not (
        out.is_dir() and all(file.name == _LOCK or is_temporary(file) for file in out.iterdir())
    ):
        raise UserError(f"out: expected a new or empty folder, got {out}, which is in use")
    return out


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Inside, no other process writes to the run; what killed ones left half-written is removed.

    Raises:
        UserError: another process is writing to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            remove_leftovers(folder)
            try:
                yield
            finally:
                with suppress(OSError):  # Windows keeps a file that is open
                    (folder / _LOCK).unlink()
    except Timeout:
        raise UserError(f"out: {folder} is being written to by another process") from None


def read_config(folder: Path, trust: bool = False) -> Config:
    """The configuration that a run was made from; no module that it names is imported.

    Raises:
        UserError: no run is there, its configuration is not valid, or it names a class outside
            flowvae and is not trusted.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"run: expected a run folder with config.yaml, got {folder}")
    check_trust(file, read_yaml(file), trust)
    return load_config(file)


def check_trust(file: Path, config: dict[str, Any], trust: bool) -> None:
    """See that a configuration names no class outside flowvae, unless its file is trusted."""
    for kind, name in outside_modules(config).items():
        if not trust:
            raise UserError(
                f"{kind}: {file} wants {name}, so the module {name.partition(':')[0]} would be "
                "imported and its code executed; if you trust this file, say --trust, or "
                "trust=True in Python"
            )

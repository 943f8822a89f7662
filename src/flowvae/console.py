"""What every command does: one line for an error, an exit code, output that a reader may leave."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import click

from flowvae.errors import (
    ProcessLostError,
    Terminated,
    TrainingError,
    UserError,
    file_complaint,
    one_line,
)

__all__ = ["run_command"]

# Windows says EINVAL where others say EPIPE.
_READER_GONE = (errno.EINVAL,) if os.name == "nt" else ()


def run_command(cli: click.Command, arguments: list[str] | None = None) -> None:
    """Run it, and leave with its exit code where that is not 0.

    Of several processes the first one alone shows anything, but for what went wrong in another
    alone.
    """
    out, errors = _Output(sys.stdout), _Output(sys.stderr)
    if _is_first():
        with redirect_stdout(out), redirect_stderr(errors):
            _run(cli, arguments, errors, errors)
        return
    # In UTF-8, for what is dropped may have letters that the system's own encoding lacks.
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        _run(cli, arguments, nowhere, errors)


def _is_first() -> bool:
    """Of several processes, which the environment tells; most often there is one."""
    if os.environ.get("RANK", "0") == "0":
        return True
    from flowvae.processes import launched

    return not launched()


class _Output:
    """A stream whose reader may go away, and whose encoding may lack a character.

    Neither ends a training: text without a reader is dropped, missing characters are replaced.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            if not isinstance(error, BrokenPipeError) and error.errno not in _READER_GONE:
                raise
            # Or Python would try again at its end.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _run(cli: click.Command, arguments: list[str] | None, common: Any, own: Any) -> None:
    """Run it; tell errors that all of several processes have apart from this one's own."""
    try:
        cli.main(args=arguments, prog_name="flowvae", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        # click makes an Abort of every KeyboardInterrupt.
        sys.exit(143 if isinstance(error.__cause__ or error, Terminated) else 130)
    except click.ClickException as error:
        _fail(error.format_message(), 2, common)
    except UserError as error:
        _fail(str(error), 2, common)
    except TrainingError as error:
        _fail(str(error), 1, own if isinstance(error, ProcessLostError) else common)
    except OSError as error:
        _fail(file_complaint(error), 2, own)
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        _fail(f"memory: there is not enough for this; {error}", 2, own)


def _is_lack_of_memory(error: Exception) -> bool:
    """PyTorch has an error of its own for a GPU's memory, and a plain one for the rest."""
    signs = ("out of memory", "allocate memory", "size calculation overflowed")
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in signs)


def _fail(message: str, code: int, where: Any) -> None:
    click.echo(one_line(f"flowvae: {message}"), file=where)
    sys.exit(code)

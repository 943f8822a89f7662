"""Errors with a message meant for the user."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = [
    "ProcessLostError",
    "Terminated",
    "TrainingError",
    "UserError",
    "file_complaint",
    "first_complaint",
    "one_line",
    "printable",
    "shown",
]

_LONGEST = 600


class UserError(ValueError):
    """Bad input: one line that names the thing, what was expected and what was got.

    The command line prints it without a traceback and exits with code 2. What comes from a file may
    be in the message: characters that would steer a terminal are written out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class TrainingError(RuntimeError):
    """Training could not go on. The command line prints it and exits with code 1."""


class ProcessLostError(TrainingError):
    """Another of several processes has gone, so that training cannot go on."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers send it. The command line exits with code 143."""


def printable(text: str) -> str:
    """The text with characters that would steer a terminal written out.

    Examples:
        >>> printable("red\\x1b[31m")
        'red\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(message: str) -> str:
    """The message on one line, without control characters, of bounded length.

    Examples:
        >>> one_line("a\\tb\\n c\\x1b[2J")
        'a b c\\\\x1b[2J'
    """
    text = printable(" ".join(message.split()))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def file_complaint(error: OSError) -> str:
    """What a failed access to a file comes to."""
    return f"{error.filename or 'file'}: {error.strerror or error}"


def shown(value: Any) -> str:
    """What was got, short however large it is."""
    return reprlib.repr(value)


def first_complaint(error: ValidationError) -> tuple[str, str]:
    """Of pydantic's complaints the first: the field, and what was wrong with what was got."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return field, message + ("" if "got" in message else f", got {shown(first['input'])}")

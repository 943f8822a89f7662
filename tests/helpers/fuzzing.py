"""A command on damaged input: it must end well, whatever the damage."""

from __future__ import annotations

import contextlib
import io
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from flowvae.cli import main

_MIB = 2**20
# What takes the place of a value: of other kinds, at the edges of kinds, and out to do harm.
JUNK: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e-320, 1e308, 10**7, 2**31, 2**62, 2**63, 2**64),
    *(float("nan"), float("inf"), 10**400, "", "x", "-1", "1e999", "nan", "\x1b[31m", "\x00", "ü☃"),
    *(
        "a" * 5000,
        "9" * 5000,
        "../../etc/passwd",
        "~nosuch/x",
        "os:system",
        "json:JSONDecoder",
        ":",
    ),
    *([], {}, [[]], [None], {"": {}}, [1] * 100, {"name": "x"}, {"name": {"name": {}}}, "[" * 2000),
]


class _OutOfTime(BaseException):
    """No `except Exception` may catch it."""


@contextlib.contextmanager
def bounded(seconds: int, megabytes: int) -> Iterator[None]:
    """Less time and memory than would hurt; what needs more fails here."""
    import resource  # Windows, which imports this file as well, has none

    def stop(*_: object) -> None:
        raise _OutOfTime

    old, limits = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + megabytes * _MIB
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def check_command(
    arguments: list[str],
    out: Path | None = None,
    *,
    codes: tuple[int, ...] = (0, 2),
    seconds: int = 10,
    megabytes: int = 1024,
    refused: Callable[[], str | None] = lambda: None,
) -> str | None:
    """What is wrong with how this command ends, or None.

    It must end with one of these codes, and with one printable line if not with 0; where it refuses
    its input, ``out`` must not be there, and ``refused`` says what else is wrong.
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    code: object = 0
    try:
        with (
            bounded(seconds, megabytes),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            main(arguments)
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        return f"{type(error).__name__}: {error!s:.200}"
    lines = stderr.getvalue().splitlines()
    if code not in codes:
        return f"exit code {code}: {lines[-1:]}"
    if not stderr.getvalue().replace("\n", "").isprintable():
        return f"control characters: {lines[-1:]!r}"
    if code == 2 and len(lines) != 1:
        return f"{len(lines)} lines: {lines[:3]}"
    if code == 2 and not lines[0].startswith("flowvae: "):
        return f"no message of ours: {lines}"
    if code == 2 and len(lines[0]) > 620:
        return f"a line of {len(lines[0])} characters"
    if code == 2 and out is not None and out.exists():
        return "something half-made is left"
    return refused() if code == 2 else None


def damaged_value(value: Any, random: Random) -> Any:
    """A copy of nested lists and dictionaries with one to three places changed."""
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        places = list(_places(value))
        path = random.choice(places)
        value = _changed(value, path, random)
    return value


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _changed(value: Any, path: tuple, random: Random) -> Any:
    if path:
        copy = value.copy()
        copy[path[0]] = _changed(value[path[0]], path[1:], random)
        return copy
    kind = random.random()
    if isinstance(value, dict) and value and kind < 0.3:  # a key less
        gone = random.choice(list(value))
        return {k: v for k, v in value.items() if k != gone}
    if isinstance(value, dict) and kind < 0.5:  # a key more
        key = random.choice(["x", "", "model", "name", "latent_dims"])
        return {**value, key: random.choice(JUNK)}
    if isinstance(value, list) and value and kind < 0.4:
        return value * random.choice([0, 2])
    return random.choice(JUNK)


def damaged_bytes(content: bytes, random: Random) -> bytes:
    """Some bytes changed, cut, repeated or put in; the beginning is where formats break best."""
    data = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 5])):
        n = len(data)
        at = random.randrange(min(n, random.choice([16, 128, n or 1])) or 1)
        kind = random.randrange(6)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + random.choice([1, 2, 4, 8])]
        elif kind == 2:
            data[at:at] = bytes(random.choice([0, 255, 10, 34, 44]) for _ in range(4))
        elif kind == 3:
            data[at : at + 4] = random.randbytes(4)
        elif kind == 4:
            data[at:at] = data[at : at + 64]
        elif n:
            data[min(at, n - 1)] ^= 1 << random.randrange(8)
    return bytes(data)

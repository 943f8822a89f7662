"""A scope in which flows keep to operations that other runtimes have, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["NotPortableError", "is_portable", "only_portable", "refuse_if_portable"]

# How many such scopes are open. torch.compile can read a plain number, and no context variable;
# what other threads compute meanwhile is the same function, more slowly.
_open_scopes = 0


class NotPortableError(Exception):
    """What is computed has no form that another runtime knows; the message is the reason."""


@contextmanager
def only_portable() -> Iterator[None]:
    """Inside, flows use no compiled kernels and no operation that ONNX lacks.

    The functions are the same. What has no such form raises :class:`NotPortableError`.
    """
    global _open_scopes  # noqa: PLW0603
    _open_scopes += 1
    try:
        yield
    finally:
        _open_scopes -= 1


def is_portable() -> bool:
    """Whether :func:`only_portable` is open."""
    return _open_scopes > 0


def refuse_if_portable(reason: str) -> None:
    """Say why what follows cannot be computed inside :func:`only_portable`."""
    if is_portable():
        raise NotPortableError(reason)

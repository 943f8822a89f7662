"""A scope in which flows keep to operations that other runtimes have, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["NotPortableError", "is_portable", "only_portable", "refuse_if_portable"]

_portable = ContextVar("portable", default=False)


class NotPortableError(Exception):
    """What is computed has no form that another runtime knows; the message is the reason."""


@contextmanager
def only_portable() -> Iterator[None]:
    """Inside, flows use no compiled kernels and no operation that ONNX lacks.

    The functions are the same. What has no such form raises :class:`NotPortableError`.
    """
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def is_portable() -> bool:
    """Whether :func:`only_portable` is open."""
    return _portable.get()


def refuse_if_portable(reason: str) -> None:
    """Say why what follows cannot be computed inside :func:`only_portable`."""
    if is_portable():
        raise NotPortableError(reason)

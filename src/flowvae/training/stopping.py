"""Signals that ask training to stop: it stops between two updates, where its state is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from flowvae.errors import Terminated

__all__ = ["Stopping"]


class Stopping:
    """Inside, Ctrl-C, SIGTERM and SIGHUP set a mark; a second Ctrl-C interrupts at once.

    In other threads than the main one, which Python gives no signals, it does nothing.
    """

    def __init__(self) -> None:
        self._asked: type[BaseException] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
            for number in numbers:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._asked is not None:
            raise KeyboardInterrupt
        self._asked = KeyboardInterrupt if number == signal.SIGINT else Terminated

    @property
    def asked(self) -> bool:
        return self._asked is not None

    def stop(self) -> None:
        """Raise what was asked for, if anything was.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            Terminated: SIGTERM.
        """
        if self._asked is not None:
            raise self._asked

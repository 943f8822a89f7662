"""Signals that ask training to stop: it stops between two updates, where its state is whole."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from flowvae.errors import Terminated
from flowvae.processes import largest

__all__ = ["Stopping"]

_SAME_SECONDS = 1.0


class Stopping:
    """Inside, Ctrl-C, SIGTERM and SIGHUP set a mark; a second Ctrl-C interrupts at once.

    The launcher of several processes passes on a signal that the terminal has sent to all, so one
    that follows the first within a second is taken for the same. In other threads than the main
    one, which Python gives no signals, it does nothing.
    """

    def __init__(self) -> None:
        self._asked: type[BaseException] | None = None
        self._agreed: type[BaseException] | None = None
        self._when = 0.0
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
        now = time.monotonic()
        if self._asked is None:
            self._asked = KeyboardInterrupt if number == signal.SIGINT else Terminated
            self._when = now
        elif now - self._when > _SAME_SECONDS:
            raise KeyboardInterrupt

    def agree(self, also: bool = False) -> bool:
        """Whether a stop is asked for, of this process or another, or one has ``also``.

        All processes must call it, and all get the same answer: a signal that comes while they do
        is heard the next time.
        """
        asked = self._asked
        mine = [asked is Terminated, asked is KeyboardInterrupt, also]
        terminated, interrupted, others = largest(mine)
        if terminated or interrupted:
            self._agreed = Terminated if terminated else KeyboardInterrupt
        return bool(terminated or interrupted or others)

    def stop(self) -> None:
        """Raise what was agreed on, if anything was.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            Terminated: SIGTERM.
        """
        if self._agreed is not None:
            raise self._agreed

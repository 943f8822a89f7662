"""Kernels on several threads where that pays.

Threads are plain ones that sleep between calls, rather than a parallel loop's: those wait for each
other by spinning, and stall when other processes keep the cores busy. Work is not dealt out but
claimed, a few parameter sets at a time, from a counter that all threads share: the caller begins at
once, a helper joins when it wakes, and a helper that wakes too late finds nothing left and is not
waited for. Who computes what does not change a bit of the result.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from time import perf_counter

import numpy as np
import torch

__all__ = ["run"]

_WORTH_A_THREAD = 50_000  # estimated ns; waking a thread costs too
_PATIENCE = 50e-6  # s

_Kernel = Callable[[np.ndarray, bool], None]
_helpers: list[SimpleQueue[tuple[_Kernel, np.ndarray, SimpleQueue[None]]]] = []
_lock = threading.Lock()


def _after_fork() -> None:
    # Threads do not survive a fork, and another thread may have held the lock.
    global _helpers, _lock
    _helpers, _lock = [], threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(
    kernel: Callable[..., None], arguments: tuple, tasks: int, cost: float, back: bool = False
) -> None:
    """Call ``kernel(*arguments, counter, from_the_end)``, by several threads if ``cost`` ns pay.

    It claims tasks (``math.claim``) until all are taken, and counts those that it has
    done. ``back`` is the backward pass of a forward pass of as many tasks.
    """
    counter = np.zeros(5, np.int64)
    threads = int(cost / _WORTH_A_THREAD)
    if threads > 1:
        threads = min(threads, torch.get_num_threads(), tasks)
    if back:
        counter[4] = max(threads, 1)
    if threads <= 1:
        kernel(*arguments, counter, False)
        return
    work, done = partial(kernel, *arguments), SimpleQueue()
    for inbox in _awake(threads - 1):
        inbox.put((work, counter, done))
    work(counter, False)
    # A helper is at its last claim, or its core is busy with something else.
    patience = perf_counter() + _PATIENCE
    while counter[1] < tasks and perf_counter() < patience:
        pass
    while counter[1] < tasks:
        done.get()


def _awake(count: int) -> list[SimpleQueue]:
    """Inboxes of so many helpers."""
    if len(_helpers) < count:
        with _lock:
            while len(_helpers) < count:
                inbox = SimpleQueue()
                name = f"flowvae-{len(_helpers)}"
                threading.Thread(target=_help, args=(inbox,), name=name, daemon=True).start()
                _helpers.append(inbox)
    return _helpers[:count]


def _help(inbox: SimpleQueue) -> None:
    while True:
        work, counter, done = inbox.get()
        work(counter, True)
        done.put(None)
        del work, counter, done

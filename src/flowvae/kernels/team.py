"""Kernels on the threads that PyTorch's own operations run on.

Between two matrix products of a training step these threads are awake: they wait for the next one
by spinning, and a call of the OpenMP library that has them starts them at once. Waking threads of
one's own can take longer than a small kernel, and two sets would be in each other's way.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from flowvae.flows.kernels.cpu_math import INLINE, add_atomically, row

__all__ = ["FIRST", "available", "counter", "helps", "run", "threads_for", "wait", "work"]

# What a kernel gets is the address of two counters for :func:`cpu_math.claim`, for two phases one
# after the other; of the address of a function that says which thread this is; of its arguments.
_COUNTER = 5
_WHICH = 2 * _COUNTER
FIRST = _WHICH + 1
_WORTH_A_THREAD = 10_000  # estimated ns
_WHOLE = np.int64(0)

work = cfunc(types.void(types.intp), error_model="numpy", cache=True)


@cfunc(types.int32(), cache=True)
def _first():
    return 0


@cache
def _team() -> tuple[Callable[..., None], int] | None:
    """``GOMP_parallel(function, its argument, threads, flags)`` of the library PyTorch has loaded.

    And the address of its ``omp_get_thread_num()``. LLVM's and Intel's libraries have it too, but
    not every platform's do.
    """
    if not torch.backends.openmp.is_available():
        return None
    try:
        library = ctypes.CDLL(None)
        start: Any = library.GOMP_parallel
        which = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p).value or 0
    except (AttributeError, OSError, TypeError):  # the last from Windows
        return None
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    start.restype = None
    return start, which


def available() -> bool:
    """Whether there is such a library; else threads of our own do what they can."""
    return _team() is not None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "flowvae")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)


def threads_for(cost: float, tasks: int) -> int:
    """How many threads an estimated cost in ns pays for."""
    threads = min(int(cost / _WORTH_A_THREAD), tasks)
    return min(threads, torch.get_num_threads()) if threads > 1 else 1


def run(kernel: Any, arguments: Sequence[int], threads: int) -> None:
    """Call a kernel made by :func:`work` on so many threads, each of which calls it.

    It claims one task after the other until none is left; who computes what must not change the
    result.
    """
    data = (ctypes.c_int64 * (FIRST + len(arguments)))(*(0,) * FIRST, *arguments)
    address = ctypes.addressof(data)
    if threads > 1 and (team := _team()) is not None:
        start, data[_WHICH] = team
        start(kernel.address, address, threads, 0)
        return
    data[_WHICH] = _first.address
    others = [_pool(threads - 1).submit(kernel.ctypes, address) for _ in range(threads - 1)]
    kernel.ctypes(address)
    for other in others:
        other.result()


@njit(**INLINE)
def counter(data, phase):
    """Of the first phase or the second, for :func:`cpu_math.claim` and :func:`cpu_math.done`."""
    return carray(row(data, _WHOLE, phase * _COUNTER), (_COUNTER,))


@intrinsic
def _call(context, address):
    """What a C function without arguments gives, an int32."""

    def build(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), []).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), [])

    return types.int32(types.int64), build


@njit(**INLINE)
def helps(data):
    """Whether this is another thread than the caller's: it takes tasks from the end.

    So the first half of what lies in a row is written by the caller's core time and again, as
    PyTorch's own operations do it. Where cores do not share a cache, memory that the other one
    wrote last is several times slower.
    """
    return _call(carray(row(data, _WHOLE, _WHICH), (1,))[0]) > 0


@njit(**INLINE)
def wait(counter, tasks):
    """Until so many are done: others are at work on the last of them."""
    while add_atomically(counter.ctypes.data + 8, 0) < tasks:
        pass

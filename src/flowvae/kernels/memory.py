"""Memory of a kernel's results, used again."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Memory", "empty", "empty_like"]

_WORTH_KEEPING, _LINE = 128 << 10, 64
_LARGE, _PAGE, _MADV_HUGEPAGE = 4 << 20, 4096, 14
_madvise: Any = ctypes.CDLL(None).madvise if sys.platform == "linux" else None
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


class Memory:
    """Memory of large results, handed out again when the tensor that had it is gone.

    Fresh pages cost more than the arithmetic that fills them: at batch 1000, K = 80, D = 40 each
    step asks for 40 MB, and the allocator gives them back to the system in between. Whoever holds a
    result keeps its memory; no more than ``limit`` bytes wait here for their next use.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting: list[np.ndarray] = []
        # By the identity of the reference that says when the lease has ended
        self._lent: dict[int, tuple[weakref.ref[np.ndarray], np.ndarray]] = {}
        # Entered again where a garbage collection inside it gives memory back.
        self._lock = threading.RLock()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """As ``torch.empty``."""
        size = math.prod(shape) * dtype.itemsize
        if not _WORTH_KEEPING <= size <= self.limit:
            return torch.empty(shape, dtype=dtype)
        memory = self._take(size)
        lease = np.ndarray(shape, _NUMPY[dtype], memory)
        ended = weakref.ref(lease, self._give)
        self._lent[id(ended)] = (ended, memory)
        return torch.from_numpy(lease)

    def empty_like(self, x: Tensor) -> Tensor:
        """As ``torch.empty_like``, but contiguous."""
        if x.nbytes < _WORTH_KEEPING:
            return torch.empty_like(x, memory_format=torch.contiguous_format)
        return self.empty(x.shape, x.dtype)

    def _take(self, size: int) -> np.ndarray:
        with self._lock:
            for i, memory in enumerate(self._waiting):
                if size <= len(memory) <= 2 * size:
                    return self._waiting.pop(i)
        raw = np.empty(size + _LINE, np.uint8)
        memory = raw[-raw.ctypes.data % _LINE :][:size]
        if size >= _LARGE and _madvise is not None:
            first = -(-memory.ctypes.data // _PAGE) * _PAGE
            length = memory.ctypes.data + size - first
            # Huge pages; advice only: if the system does not take it, nothing is lost.
            _madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_HUGEPAGE)
        return memory

    def _give(self, ended: weakref.ref[np.ndarray]) -> None:
        _, memory = self._lent.pop(id(ended))
        with self._lock:
            self._waiting.insert(0, memory)
            while sum(map(len, self._waiting)) > self.limit:
                self._waiting.pop()


_memory = Memory(limit=256 << 20)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """As ``torch.empty``, from what all kernels share."""
    return _memory.empty(shape, dtype)


def empty_like(x: Tensor) -> Tensor:
    """As ``torch.empty_like``, but contiguous, from what all kernels share."""
    return _memory.empty_like(x)


def _after_fork() -> None:
    # Another thread may have held the lock.
    global _memory  # noqa: PLW0603
    _memory = Memory(_memory.limit)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

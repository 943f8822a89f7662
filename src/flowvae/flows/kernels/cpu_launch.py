"""From tensors to the CPU kernels: addresses, strides, and threads where they pay."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae.flows.kernels import cpu, cpu_shared
from flowvae.flows.kernels.cpu_threads import run

__all__ = ["backward", "forward"]

_NS_PER_LAYER, _NS_PER_VALUE = 12.0, 0.4  # either way, on one thread

# Bytes of w and u, or of their gradients, beyond which the caches do not hold them until they are
# used again; and how many numbers of each set to bring into the cache at a time.
_WORTH_FETCHING, _WORTH_A_DETOUR, _AHEAD = 8 << 20, 2 << 20, 4096
_WORTH_KEEPING, _LINE = 128 << 10, 64
_LARGE, _PAGE, _MADV_HUGEPAGE = 4 << 20, 4096, 14
_madvise: Any = ctypes.CDLL(None).madvise if sys.platform == "linux" else None

_TINY = {dtype: torch.finfo(dtype).tiny for dtype in (torch.float32, torch.float64)}
_Kernels = dict[bool, Callable[..., None]]  # by whether the map is inverted
_FORWARD: _Kernels = {False: cpu.forward, True: cpu.inverse}
_FORWARD_SHARED: _Kernels = {False: cpu_shared.forward, True: cpu_shared.inverse}
_BACKWARD: _Kernels = {False: cpu.backward, True: cpu.inverse_backward}


class _Memory:
    """Memory of large results, handed out again when the tensor that had it is gone.

    Fresh pages cost more than the arithmetic that fills them: at batch 1000, K = 80, D = 40 each
    step asks for 40 MB, and the allocator gives them back to the system in between. Whoever holds a
    result keeps its memory; no more than ``limit`` bytes wait here for their next use.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting: list[np.ndarray] = []
        # Entered again where a garbage collection inside it gives memory back.
        self._lock = threading.RLock()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """As ``torch.empty``."""
        size = math.prod(shape) * dtype.itemsize
        if not _WORTH_KEEPING <= size <= self.limit:
            return torch.empty(shape, dtype=dtype)
        memory = self._take(size)
        lease = memory[:size]
        weakref.finalize(lease, self._give, memory).atexit = False
        return torch.from_numpy(lease).view(dtype).view(shape)

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

    def _give(self, memory: np.ndarray) -> None:
        with self._lock:
            self._waiting.insert(0, memory)
            while sum(map(len, self._waiting)) > self.limit:
                self._waiting.pop()


_memory = _Memory(limit=256 << 20)


def _after_fork() -> None:
    # Another thread may have held the lock.
    global _memory  # noqa: PLW0603
    _memory = _Memory(_memory.limit)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _token(z: Tensor) -> np.float32 | np.float64:
    return np.float32(0) if z.dtype == torch.float32 else np.float64(0)


def _rows(x: Tensor) -> Tensor:
    """x itself if each of its sets lies together in memory, else a copy."""
    inner = x.stride()[1:]
    return x if inner == ((x.shape[2], 1) if x.dim() == 3 else (1,)) else x.contiguous()


def _inputs(w: Tensor, u: Tensor, b: Tensor) -> tuple[tuple[int, int], ...]:
    return tuple((x.data_ptr(), x.stride(0)) for x in (w, u, b))


def numbers_kept(S: int, P: int, K: int, D: int, inverted: bool) -> int:
    """How many numbers are kept: some for each layer of each point, and the exact end.

    Where samples share a set, a_k alone: the rest is found again once for all of them.
    """
    if S > 1:
        return S * P * (K + D)
    return -(-P // cpu.LANES) * cpu.LANES * K * cpu.KEPT[inverted] + P * D


def _exact_end(kept: Tensor, size: int) -> int:
    """Where in what is kept the end of the walk is."""
    return kept.data_ptr() + 8 * (kept.numel() - size)


def forward(
    z: Tensor, w: Tensor, u: Tensor, b: Tensor, shift: float, save: bool, inverted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Points (S, P, D) through sets (P, K, D): end, log-determinant (S, P), and what to keep."""
    S, P, D = z.shape
    K = w.shape[1]
    w, u, b = _rows(w), _rows(u), _rows(b)
    if z.stride(2) != 1:
        z = z.contiguous()
    end = _memory.empty((S, P, D), z.dtype)
    ladj = torch.empty((S, P), dtype=z.dtype)
    kept = _memory.empty((numbers_kept(S, P, K, D, inverted) if save else 0,), torch.float64)
    tiny = _TINY[z.dtype]
    address, sample, set_ = z.data_ptr(), z.stride(0), z.stride(1)
    parameters = _inputs(w, u, b)
    exact_end = _exact_end(kept, S * P * D)
    outputs = (end.data_ptr(), ladj.data_ptr(), kept.data_ptr(), exact_end)
    cost = S * P * K * (_NS_PER_LAYER + _NS_PER_VALUE * D)
    if S == 1:
        source = (address, set_)
        ahead = max(1, _AHEAD // D) if 2 * w.numel() * w.itemsize >= _WORTH_FETCHING else 0
        arguments = (_token(z), source, *parameters, *outputs, P, K, D, shift, tiny, save, ahead)
        run(_FORWARD[inverted], arguments, P, cost)
    else:
        source = (address, sample, set_)
        arguments = (_token(z), source, *parameters, *outputs, S, P, K, D, shift, tiny, save)
        run(_FORWARD_SHARED[inverted], arguments, P * -(-S // cpu_shared.CHUNK), cost)
    return end, ladj, kept


def backward(
    w: Tensor,
    u: Tensor,
    b: Tensor,
    kept: Tensor,
    end_bar: Tensor,
    ladj_bar: Tensor,
    shift: float,
    inverted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the start (S, P, D), w, u and b from those of end and log-determinant."""
    S, P, D = end_bar.shape
    K = w.shape[1]
    w, u, b = _rows(w), _rows(u), _rows(b)
    end_bar, ladj_bar = end_bar.contiguous(), ladj_bar.contiguous()
    start_bar = _memory.empty((S, P, D), end_bar.dtype)
    end = _exact_end(kept, S * P * D)
    w_bar, u_bar = _memory.empty((P, K, D), w.dtype), _memory.empty((P, K, D), w.dtype)
    b_bar = torch.empty((P, K), dtype=w.dtype)
    tiny = _TINY[end_bar.dtype]
    token = _token(end_bar)
    in_w, in_u, in_b = _inputs(w, u, b)
    bars = (w_bar.data_ptr(), u_bar.data_ptr(), b_bar.data_ptr())
    gradients = (end_bar.data_ptr(), ladj_bar.data_ptr(), start_bar.data_ptr())
    cost = S * P * K * (_NS_PER_LAYER + _NS_PER_VALUE * D)
    if S == 1:
        around = D % cpu.WIDTH == 0 and 2 * w.numel() * w.itemsize >= _WORTH_A_DETOUR
        arguments = (token, end, in_w, in_u, kept.data_ptr(), *gradients, *bars, P, K, D, around)
        run(_BACKWARD[inverted], arguments, P, cost)
    else:
        tasks = P * -(-S // cpu_shared.CHUNK)
        sums = _memory.empty((tasks, K, 2 * D + 2), torch.float64)
        known = (token, end, in_w, in_u, in_b, kept.data_ptr(), *gradients, sums.data_ptr())
        run(cpu_shared.pullback, (*known, S, P, K, D, shift, tiny, inverted), tasks, cost)
        known = (token, in_w, in_u, in_b, sums.data_ptr(), *bars)
        run(cpu_shared.finish, (*known, S, P, K, D, shift, tiny), P, P * K * D * 4.0)
    return start_bar, w_bar, u_bar, b_bar

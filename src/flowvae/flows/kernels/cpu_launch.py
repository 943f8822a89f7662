"""From tensors to the CPU kernels: addresses, strides, and threads where they pay."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae.flows.kernels import cpu, cpu_shared

__all__ = ["backward", "forward"]

# A second thread costs some 50 µs to wake. Plain threads that sleep between calls, rather than a
# parallel loop's: those wait for each other by spinning, and stall when the cores are busy.
_WORTH_A_THREAD = 200_000  # estimated ns
_NS_PER_LAYER, _NS_PER_VALUE = 25.0, 1.0

_LARGE, _PAGE, _MADV_HUGEPAGE = 4 << 20, 4096, 14
_madvise: Any = ctypes.CDLL(None).madvise if sys.platform == "linux" else None

_Kernels = dict[bool, Callable[..., None]]  # by whether the map is inverted
_FORWARD: _Kernels = {False: cpu.forward, True: cpu.inverse}
_FORWARD_SHARED: _Kernels = {False: cpu_shared.forward, True: cpu_shared.inverse}
_BACKWARD: _Kernels = {False: cpu.backward, True: cpu.inverse_backward}

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool  # noqa: PLW0603 - threads do not survive a fork
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _run(kernel: Callable[[int, int], None], tasks: int, step: int, cost: float) -> None:
    """Call ``kernel(first, last)`` over all tasks, on several threads if ``cost`` ns pay."""
    global _pool  # noqa: PLW0603
    threads = min(torch.get_num_threads(), int(cost / _WORTH_A_THREAD), -(-tasks // step))
    if threads <= 1:
        kernel(0, tasks)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="flowvae")
    cuts = [tasks * t // threads // step * step for t in range(threads)] + [tasks]
    others = [_pool.submit(kernel, first, last) for first, last in pairwise(cuts[1:])]
    kernel(cuts[0], cuts[1])
    for other in others:
        other.result()


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """torch.empty, in huge pages where it is large: else its first touch is mostly page faults."""
    fresh = torch.empty(shape, dtype=dtype)
    size = fresh.numel() * fresh.element_size()
    if size >= _LARGE and _madvise is not None:
        start = fresh.data_ptr()
        first = -(-start // _PAGE) * _PAGE
        # Advice only: if the system does not take it, nothing is lost.
        _madvise(ctypes.c_void_p(first), ctypes.c_size_t(start + size - first), _MADV_HUGEPAGE)
    return fresh


def _token(z: Tensor) -> np.float32 | np.float64:
    return np.float32(0) if z.dtype == torch.float32 else np.float64(0)


def _rows(x: Tensor) -> Tensor:
    """x itself if each of its sets lies together in memory, else a copy."""
    inner = x.stride()[1:]
    return x if inner == ((x.shape[2], 1) if x.dim() == 3 else (1,)) else x.contiguous()


def _inputs(w: Tensor, u: Tensor, b: Tensor) -> tuple[tuple[int, int], ...]:
    return tuple((x.data_ptr(), x.stride(0)) for x in (w, u, b))


def forward(
    z: Tensor, w: Tensor, u: Tensor, b: Tensor, shift: float, save: bool, inverted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Points (S, P, D) through sets (P, K, D): end, log-determinant (S, P), and what to keep."""
    S, P, D = z.shape
    K = w.shape[1]
    w, u, b = _rows(w), _rows(u), _rows(b)
    if z.stride(2) != 1:
        z = z.contiguous()
    end = torch.empty((S, P, D), dtype=z.dtype)
    ladj = torch.empty((S, P), dtype=z.dtype)
    kept = torch.empty(S * P * (K + D) if save else 0, dtype=torch.float64)
    tiny = torch.finfo(z.dtype).tiny
    head = (_token(z),)
    address, sample, set_ = z.data_ptr(), z.stride(0), z.stride(1)
    parameters = _inputs(w, u, b)
    exact_end = kept.data_ptr() + 8 * S * P * K
    outputs = (end.data_ptr(), ladj.data_ptr(), kept.data_ptr(), exact_end)
    cost = S * P * K * (_NS_PER_LAYER + _NS_PER_VALUE * D)
    if S == 1:
        lanes = _FORWARD[inverted]
        _run(
            lambda first, last: lanes(
                *head, (address, set_), *parameters, *outputs, K, D, first, last, shift, tiny, save
            ),
            P,
            cpu.LANES,
            cost,
        )
    else:
        shared = _FORWARD_SHARED[inverted]
        source = (address, sample, set_)
        _run(
            lambda first, last: shared(
                *head, source, *parameters, *outputs, S, P, K, D, first, last, shift, tiny, save
            ),
            P * -(-S // cpu_shared.CHUNK),
            1,
            cost,
        )
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
    start_bar = torch.empty_like(end_bar)
    end = kept.data_ptr() + 8 * S * P * K
    w_bar, u_bar = _empty((P, K, D), w.dtype), _empty((P, K, D), w.dtype)
    b_bar = torch.empty((P, K), dtype=w.dtype)
    tiny = torch.finfo(end_bar.dtype).tiny
    token = _token(end_bar)
    in_w, in_u, in_b = _inputs(w, u, b)
    bars = (w_bar.data_ptr(), u_bar.data_ptr(), b_bar.data_ptr())
    gradients = (end_bar.data_ptr(), ladj_bar.data_ptr(), start_bar.data_ptr())
    cost = 2 * S * P * K * (_NS_PER_LAYER + _NS_PER_VALUE * D)
    if S == 1:
        lanes = _BACKWARD[inverted]
        known = (end, in_w, in_u, kept.data_ptr())
        _run(
            lambda first, last: lanes(
                token, *known, *gradients, *bars, K, D, first, last, shift, tiny
            ),
            P,
            1,
            cost,
        )
    else:
        tasks = P * -(-S // cpu_shared.CHUNK)
        sums = torch.empty((tasks, K, 2 * D + 2), dtype=torch.float64)
        known = (end, in_w, in_u, in_b, kept.data_ptr())
        _run(
            lambda first, last: cpu_shared.pullback(
                *(token, *known, *gradients, sums.data_ptr()),
                *(S, P, K, D, first, last, shift, tiny, inverted),
            ),
            tasks,
            1,
            cost,
        )
        _run(
            lambda first, last: cpu_shared.finish(
                *(token, in_w, in_u, in_b, sums.data_ptr(), *bars),
                *(S, K, D, first, last, shift, tiny),
            ),
            P,
            1,
            P * K * D * 4.0,
        )
    return start_bar, w_bar, u_bar, b_bar

"""From tensors to the CPU kernels: addresses, strides, and threads where they pay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae.kernels import memory
from flowvae.kernels.planar import cpu, cpu_shared
from flowvae.kernels.threads import run

__all__ = ["backward", "forward"]

_NS_PER_LAYER, _NS_PER_VALUE = 12.0, 0.4  # either way, on one thread

# Bytes of gradients beyond which the caches do not hold them until they are used.
_WORTH_A_DETOUR = 2 << 20

# A number of the tensors' kind, which tells numba what is at an address, and the smallest ‖w‖² that
# is not taken for 0
_OF_DTYPE: dict[torch.dtype, tuple[Any, float]] = {
    torch.float32: (np.float32(0), torch.finfo(torch.float32).tiny),
    torch.float64: (np.float64(0), torch.finfo(torch.float64).tiny),
}
_Kernels = dict[bool, Callable[..., None]]  # by whether the map is inverted
_FORWARD: _Kernels = {False: cpu.forward, True: cpu.inverse}
_FORWARD_SHARED: _Kernels = {False: cpu_shared.forward, True: cpu_shared.inverse}
_BACKWARD: _Kernels = {False: cpu.backward, True: cpu.inverse_backward}


def _sets(x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """x, or a copy where a set does not lie together in memory, and its (address, stride)."""
    if not x.is_contiguous() and x.stride()[1:] != ((x.shape[2], 1) if x.dim() == 3 else (1,)):
        x = x.contiguous()
    return x, (x.data_ptr(), x.stride(0))


def numbers_kept(S: int, P: int, K: int, D: int, inverted: bool) -> int:
    """How many numbers are kept: some for each layer of each point, and the exact end.

    Where samples share a set, a_k alone: the rest is found again once for all of them.
    """
    if S > 1:
        return S * P * (K + D)
    return -(-P // cpu.LANES) * cpu.LANES * K * cpu.KEPT[inverted] + P * D


def forward(
    z: Tensor, w: Tensor, u: Tensor, b: Tensor, shift: float, save: bool, inverted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Points (S, P, D), or (P, D), through sets (P, K, D).

    The end, the log-determinant (S, P), or (P,), and what to keep.
    """
    P, K, D = w.shape
    S = 1 if z.dim() == 2 else z.shape[0]
    # They are held until the kernel has run: copies have no other owner.
    (w, in_w), (u, in_u), (b, in_b) = _sets(w), _sets(u), _sets(b)
    if z.stride(-1) != 1:
        z = z.contiguous()
    token, tiny = _OF_DTYPE[z.dtype]
    end = memory.empty_like(z)
    ladj = memory.empty(z.shape[:-1], z.dtype)
    kept = memory.empty((numbers_kept(S, P, K, D, inverted) if save else 0,), torch.float64)
    at = kept.data_ptr()
    outputs = (end.data_ptr(), ladj.data_ptr(), at, at + 8 * (kept.numel() - S * P * D))
    cost = S * P * K * (_NS_PER_LAYER + _NS_PER_VALUE * D)
    if S == 1:
        source = (z.data_ptr(), z.stride(-2))
        sizes = (P, K, D, shift, tiny, save)
        run(_FORWARD[inverted], (token, source, in_w, in_u, in_b, *outputs, *sizes), P, cost)
    else:
        source = (z.data_ptr(), z.stride(0), z.stride(1))
        sizes = (S, P, K, D, shift, tiny, save)
        arguments = (token, source, in_w, in_u, in_b, *outputs, *sizes)
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
    """Gradients of the start, (S, P, D) or (P, D), of w, u and b from those of end and ladj."""
    P, K, D = w.shape
    S = 1 if end_bar.dim() == 2 else end_bar.shape[0]
    (w, in_w), (u, in_u) = _sets(w), _sets(u)
    end_bar, ladj_bar = end_bar.contiguous(), ladj_bar.contiguous()
    token, tiny = _OF_DTYPE[end_bar.dtype]
    start_bar, b_bar = memory.empty_like(end_bar), memory.empty_like(b)
    w_bar, u_bar = memory.empty_like(w), memory.empty_like(u)
    at = kept.data_ptr()
    end = at + 8 * (kept.numel() - S * P * D)
    bars = (w_bar.data_ptr(), u_bar.data_ptr(), b_bar.data_ptr())
    gradients = (end_bar.data_ptr(), ladj_bar.data_ptr(), start_bar.data_ptr())
    cost = S * P * K * (_NS_PER_LAYER + _NS_PER_VALUE * D)
    if S == 1:
        around = D % cpu.WIDTH == 0 and 2 * w.nbytes >= _WORTH_A_DETOUR
        arguments = (token, end, in_w, in_u, at, *gradients, *bars, P, K, D, around)
        run(_BACKWARD[inverted], arguments, P, cost, back=True)
    else:
        b, in_b = _sets(b)
        tasks = P * -(-S // cpu_shared.CHUNK)
        sums = memory.empty((tasks, K, 2 * D + 2), torch.float64)
        known = (token, end, in_w, in_u, in_b, at, *gradients, sums.data_ptr())
        run(cpu_shared.pullback, (*known, S, P, K, D, shift, tiny, inverted), tasks, cost, True)
        known = (token, in_w, in_u, in_b, sums.data_ptr(), *bars)
        run(cpu_shared.finish, (*known, S, P, K, D, shift, tiny), P, P * K * D * 4.0)
    return start_bar, w_bar, u_bar, b_bar

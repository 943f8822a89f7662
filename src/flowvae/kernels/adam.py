"""Adam's update on a CPU: is the gradient finite, and if so one pass over all parameters.

    g += λ p,  m += (1 - β₁)(g - m),  v = β₂ v + (1 - β₂) g²,  p -= η m / (√v / c + ε)

All cores have read the parameters, in the products, and before one of them can write a line of the
cache the others have to give it up. Where cores do not share a cache that takes longer than all the
rest of the update: so large parameters are written past the cache. Each thread takes its part of
each tensor, the same every time.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np
from numba import carray, njit
from torch import Tensor

from flowvae.flows.kernels.cpu_math import INLINE, claim, done, row, select
from flowvae.flows.kernels.cpu_vectors import WIDTH, load_singles, store_singles_around
from flowvae.kernels.team import FIRST, counter, helps, run, threads_for, wait, work

__all__ = ["update"]

_BLOCK = 256  # numbers
_LINE = 16
_LARGE = 1 << 15
_NS_PER_NUMBER = 0.5
_WHOLE, _SINGLE, _DOUBLE = np.int64(0), np.float32(0), np.float64(0)


def update(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    step: int,
    rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    nothing: float,
    guarded: bool,
) -> bool:
    """The ``step``-th update, from 1, of float32 tensors without holes, alike in their strides.

    What ends below ``nothing`` is set to 0. If ``guarded``, nothing is done, and the answer is no,
    where the sum of the gradient's squares is not finite.
    """
    one, two = betas
    step_size = rate / (1 - one**step)
    correction = math.sqrt(1 - two**step)
    numbers = (weight_decay, 1 - one, two, 1 - two, correction, eps, step_size, nothing)
    constants = (ctypes.c_double * len(numbers))(*numbers)
    tensors = [
        number
        for each in zip(parameters, gradients, means, squares, strict=True)
        for number in (*(x.data_ptr() for x in each), each[0].numel())
    ]
    threads = threads_for(sum(tensors[4::5]) * _NS_PER_NUMBER, 64)
    sums = (ctypes.c_float * threads)()
    where = (ctypes.addressof(constants), ctypes.addressof(sums))
    run(_update, (threads, len(parameters), guarded, *where, *tensors), threads)
    return not guarded or math.isfinite(math.fsum(sums))


@njit(error_model="numpy", nogil=True, fastmath={"contract"})
def _block(p, g, m, v, n, constants, out):
    p, g, m, v = carray(p, (n,)), carray(g, (n,)), carray(m, (n,)), carray(v, (n,))
    decay, first, keep, second, correction, eps, step_size, nothing = constants
    for i in range(n):
        slope = g[i] + decay * p[i]
        mean = m[i] + first * (slope - m[i])
        square = keep * v[i] + second * slope * slope
        value = p[i] - step_size * mean / (np.sqrt(square) / correction + eps)
        m[i] = select(abs(mean) < nothing, _SINGLE, mean)
        v[i] = select(square < nothing, _SINGLE, square)
        out[i] = select(abs(value) < nothing, _SINGLE, value)


@njit(error_model="numpy", nogil=True)
def _write(p, values, n, around):
    i = 0
    if around:
        source = row(values.ctypes.data, _SINGLE, 0)
        while i <= n - WIDTH:
            store_singles_around(p, i, load_singles(source, i))
            i += WIDTH
    p = carray(p, (n,))
    for k in range(i, n):
        p[k] = values[k]


@njit(error_model="numpy", nogil=True, fastmath={"reassoc", "contract"})
def _sum_of_squares(numbers, n):
    numbers, total = carray(numbers, (max(n, 0),)), _SINGLE
    for i in range(n):
        total += numbers[i] * numbers[i]
    return total


@njit(**INLINE)
def _range(size, part, parts):
    """What a thread takes of a tensor, by whole lines of the cache."""
    share = -(-size // (parts * _LINE)) * _LINE
    return part * share, min(size, (part + 1) * share)


@work
def _update(data):
    """By parts, each with its sum; of each of n tensors (p, g, m, v, size) comes last."""
    parts, n, guarded, constants, sums = carray(row(data, _WHOLE, FIRST), (5,))
    tensors = carray(row(data, _WHOLE, FIRST + 5), (n, 5))
    sums = carray(row(sums, _SINGLE, 0), (parts,))
    first, second, late = counter(data, 0), counter(data, 1), helps(data)
    if guarded:
        part = claim(first, parts, 1, late)
        while part < parts:
            for k in range(n):
                start, end = _range(tensors[k, 4], part, parts)
                sums[part] += _sum_of_squares(row(tensors[k, 1], _SINGLE, start), end - start)
            done(first, 1)
            part = claim(first, parts, 1, late)
        wait(first, parts)
        total = 0.0
        for part in range(parts):
            total += sums[part]
        if not math.isfinite(total):
            return
    c = carray(row(constants, _DOUBLE, 0), (8,)).astype(np.float32)
    constants = (c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7])
    values = np.empty(_BLOCK, np.float32)
    part = claim(second, parts, 1, late)
    while part < parts:
        for k in range(n - 1, -1, -1):  # what was read last may be near still
            p, g, m, v, size = tensors[k]
            around = size >= _LARGE and p % (4 * WIDTH) == 0
            start, end = _range(size, part, parts)
            for i in range(start, end, _BLOCK):
                p_i, g_i = row(p, _SINGLE, i), row(g, _SINGLE, i)
                m_i, v_i = row(m, _SINGLE, i), row(v, _SINGLE, i)
                count = min(_BLOCK, end - i)
                _block(p_i, g_i, m_i, v_i, count, constants, values)
                _write(p_i, values, count, around)
        part = claim(second, parts, 1, late)

"""Adam's update on a CPU, in one pass over all parameters.

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

from flowvae.flows.kernels.cpu_math import claim, row, select
from flowvae.flows.kernels.cpu_vectors import WIDTH, load_singles, store_singles_around
from flowvae.kernels.team import FIRST, counter, helps, run, threads_for, work

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
) -> None:
    """The ``step``-th update, from 1, of float32 tensors without holes, alike in their strides.

    What ends below ``nothing`` is set to 0.
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
    where = ctypes.addressof(constants)
    run(_update, (threads, len(parameters), where, *tensors), threads)


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


@work
def _update(data):
    """By parts; of each of n tensors (p, g, m, v, size) comes last."""
    parts, n, constants = carray(row(data, _WHOLE, FIRST), (3,))
    c = carray(row(constants, _DOUBLE, 0), (8,)).astype(np.float32)
    constants = (c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7])
    tensors = carray(row(data, _WHOLE, FIRST + 3), (n, 5))
    values = np.empty(_BLOCK, np.float32)
    claims, late = counter(data, 0), helps(data)
    part = claim(claims, parts, 1, late)
    while part < parts:
        for k in range(n):
            p, g, m, v, size = tensors[k]
            around = size >= _LARGE and p % (4 * WIDTH) == 0
            share = -(-size // (parts * _LINE)) * _LINE
            last = min(size, (part + 1) * share)
            for i in range(part * share, last, _BLOCK):
                p_i, g_i = row(p, _SINGLE, i), row(g, _SINGLE, i)
                m_i, v_i = row(m, _SINGLE, i), row(v, _SINGLE, i)
                count = min(_BLOCK, last - i)
                _block(p_i, g_i, m_i, v_i, count, constants, values)
                _write(p_i, values, count, around)
        part = claim(claims, parts, 1, late)

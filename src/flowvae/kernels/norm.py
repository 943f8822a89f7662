"""The sum of the squares of many float32 numbers on a CPU, in one call."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from flowvae.flows.kernels.cpu_math import claim, row
from flowvae.kernels.team import FIRST, counter, helps, run, threads_for, work

__all__ = ["sum_of_squares"]

_NS_PER_NUMBER = 0.1
_WHOLE, _SINGLE = np.int64(0), np.float32(0)


def sum_of_squares(tensors: Sequence[Tensor]) -> float:
    """Σ x² over float32 tensors without holes; it overflows where float32 does."""
    pairs = [number for x in tensors for number in (x.data_ptr(), x.numel())]
    n = len(tensors)
    # A thread takes its part of each tensor, as in the update that follows.
    threads = threads_for(sum(pairs[1::2]) * _NS_PER_NUMBER, 64)
    sums = torch.empty(threads, n)
    run(_sums, (sums.data_ptr(), threads, n, *pairs), threads)
    return math.fsum(sums.flatten().tolist())


@njit(error_model="numpy", nogil=True, fastmath={"reassoc", "contract"})
def _sum(numbers):
    total = _SINGLE
    for i in range(len(numbers)):
        total += numbers[i] * numbers[i]
    return total


@work
def _sums(data):
    """Of each part of each of n tensors, whose (address, size) come last."""
    out, parts, n = carray(row(data, _WHOLE, FIRST), (3,))
    sums = carray(row(out, _SINGLE, 0), (parts, n))
    tensors = carray(row(data, _WHOLE, FIRST + 3), (n, 2))
    claims, late = counter(data, 0), helps(data)
    part = claim(claims, parts, 1, late)
    while part < parts:
        for i in range(n):
            size = -(-tensors[i, 1] // parts)
            first = part * size
            size = max(0, min(size, tensors[i, 1] - first))
            sums[part, i] = _sum(carray(row(tensors[i, 0], _SINGLE, first), (size,)))
        part = claim(claims, parts, 1, late)

"""The planar kernels on memory that ends at a protected page (run by test_memory.py).

Inputs, outputs and what is kept lie at the end of their last page, the next one is protected: a
number read or written too far kills the process. Or they begin where a protected page ends.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from itertools import product

import numpy as np
import torch

from flowvae.flows import planar_flow, planar_flow_inverse
from flowvae.kernels.planar import cpu_launch

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guarded:
    """Stands in for the allocator of results."""

    def __init__(self, at_the_end: bool) -> None:
        self.at_the_end = at_the_end

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        pages = -(-size // PAGE) * PAGE
        memory = mmap.mmap(-1, pages + 2 * PAGE)  # unmapped with the last array on it
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for page in (start, start + PAGE + pages):
            assert libc.mprotect(page, PAGE, 0) == 0
        offset = PAGE + (pages - size if self.at_the_end else 0)
        kind = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
        array = np.frombuffer(memory, kind, math.prod(shape), offset)
        return torch.from_numpy(array.reshape(shape))

    def empty_like(self, x: torch.Tensor) -> torch.Tensor:
        return self.empty(tuple(x.shape), x.dtype)

    def filled(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return self.empty(shape, dtype).copy_(torch.randn(shape, dtype=dtype))


def check(memory: Guarded, S: int, B: int, K: int, D: int, dtype: torch.dtype) -> None:
    lead = (B,) if S == 1 else (S, B)
    values = [memory.filled(s, dtype) for s in ((*lead, D), (B, K, D), (B, K, D), (B, K))]
    bars = [memory.filled(s, dtype) for s in ((*lead, D), lead)]
    for function in (planar_flow, planar_flow_inverse):
        inputs = [value.requires_grad_() for value in values]
        outputs = function(*inputs, "centred")
        found = torch.autograd.grad(outputs, inputs, bars)
        exact = [value.detach().double().requires_grad_() for value in values]
        cpu_launch.memory, kept = plain, cpu_launch.memory
        truth = torch.autograd.grad(
            function(*exact, "centred"), exact, [bar.double() for bar in bars]
        )
        cpu_launch.memory = kept
        for mine, other in zip(found, truth, strict=True):
            assert (mine - other).norm() <= 1e-2 * (1 + other.norm()), (function, S, B, K, D)


if __name__ == "__main__":
    sizes = product((1, 2, 3, 5, 7, 8, 9, 16, 17, 40), (1, 2, 3, 16), (1, 7, 9), (1, 3))
    some = list(sizes)[:: int(sys.argv[1])]
    torch.manual_seed(0)
    plain = cpu_launch.memory
    for D, K, B, S in some:
        for at_the_end, dtype in product((True, False), (torch.float32, torch.float64)):
            cpu_launch.memory = Guarded(at_the_end)
            check(cpu_launch.memory, S, B, K, D, dtype)
    print("done")

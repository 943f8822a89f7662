"""Work that threads claim."""

from __future__ import annotations

import pytest

pytest.importorskip("numba")

from queue import SimpleQueue

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvae.flows import planar_flow
from flowvae.kernels import math
from flowvae.kernels import threads as kernel_threads


@given(
    tasks=st.integers(0, 200),
    n=st.integers(1, 16),
    threads=st.integers(0, 5),
    helped=st.lists(st.booleans(), max_size=300),
)
def test_every_task_is_claimed_once(tasks, n, threads, helped):
    """Whichever thread comes first: in the forward pass (0 threads) and in the backward pass."""
    counter = np.zeros(5, np.int64)
    counter[4] = threads
    claim, claimed = math.claim.py_func, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(math, "add_atomically", _add(counter))
        for from_the_end in [*helped, *[False] * (tasks + 2)]:
            first = claim(counter, tasks, n, from_the_end)
            if first < tasks:
                claimed += range(first, min(first + n, tasks))
    assert sorted(claimed) == list(range(tasks))


def _add(counter):
    """What the atomic addition does, for one thread."""

    def add(address, amount):
        i = (address - counter.ctypes.data) // 8
        before = int(counter[i])
        counter[i] += amount
        return before

    return add


def test_a_helper_that_wakes_too_late_is_not_waited_for(monkeypatch):
    """With helpers that never take what is put before them the caller does it all."""
    asleep = [SimpleQueue(), SimpleQueue()]
    monkeypatch.setattr(kernel_threads, "_awake", lambda count: asleep[:count])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    inputs = _inputs(torch.float32, 900, 20, 16)
    found = planar_flow(*inputs)
    assert not any(inbox.empty() for inbox in asleep)
    monkeypatch.undo()
    for a, b in zip(found, planar_flow(*inputs), strict=True):
        assert torch.equal(a, b)


def _inputs(dtype: torch.dtype, P: int, K: int, D: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (P, D), (P, K, D), (P, K, D), (P, K)
    return [0.5 * torch.randn(*s, dtype=dtype, generator=generator) for s in shapes]

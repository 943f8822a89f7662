"""How the CPU kernels share work and go through memory: no result depends on either."""

from __future__ import annotations

from queue import SimpleQueue

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvae.flows import planar_flow, planar_flow_inverse

pytest.importorskip("numba")
from flowvae.kernels import math
from flowvae.kernels import threads as kernel_threads
from flowvae.kernels.planar import cpu_launch


@given(
    tasks=st.integers(0, 200),
    n=st.integers(1, 16),
    threads=st.integers(0, 5),
    helped=st.lists(st.booleans(), max_size=300),
)
def test_every_task_is_claimed_once(tasks, n, threads, helped):
    """Whoever comes when: on the way there (0 threads), and on the way back."""
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [planar_flow, planar_flow_inverse])
@pytest.mark.parametrize("D", [5, 16, 24])
def test_results_do_not_depend_on_the_way_through_memory(function, dtype, D, monkeypatch):
    """Large gradients are written around the cache."""
    inputs = _inputs(dtype, 37, 9, D)
    before = _with_gradients(function, inputs)
    monkeypatch.setattr(cpu_launch, "_WORTH_A_DETOUR", 0)
    for a, b in zip(_with_gradients(function, inputs), before, strict=True):
        assert torch.equal(a, b)


def _inputs(dtype: torch.dtype, P: int, K: int, D: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (P, D), (P, K, D), (P, K, D), (P, K)
    return [0.5 * torch.randn(*s, dtype=dtype, generator=generator) for s in shapes]


def _with_gradients(function, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    end, ladj = function(*leaves)
    loss = end.square().sum() + ladj.sum()
    return [end.detach(), ladj.detach(), *torch.autograd.grad(loss, leaves)]


def test_memory_of_results_is_used_again_once_nobody_holds_it():
    from flowvae.kernels.memory import Memory

    memory = Memory(limit=3 << 20)
    first, second = (memory.empty((1 << 18,), torch.float32) for _ in range(2))
    assert first.data_ptr() != second.data_ptr()
    assert first.data_ptr() % 64 == 0
    address, view = first.data_ptr(), first[5:]
    view.fill_(7)
    del first
    third = memory.empty((1 << 18,), torch.float32)  # the view still holds the first
    assert third.data_ptr() != address
    third.zero_()
    assert view.eq(7).all()
    del view
    again = memory.empty((512, 256), torch.float64)
    assert again.data_ptr() == address
    assert again.is_contiguous()
    del again, second, third
    assert sum(map(len, memory._waiting)) <= memory.limit
    # Larger than all that may wait: no memory of ours
    assert memory.empty((1 << 20,), torch.float32).untyped_storage().resizable()

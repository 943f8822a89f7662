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
from flowvae.flows.kernels import cpu_launch, cpu_math, cpu_threads


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
    claim, claimed = cpu_math.claim.py_func, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_math, "add_atomically", _add(counter))
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
    monkeypatch.setattr(cpu_threads, "_awake", lambda count: asleep[:count])
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

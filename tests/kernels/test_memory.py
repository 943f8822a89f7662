"""Memory that is kept for results."""

from __future__ import annotations

import pytest

pytest.importorskip("numba")

import torch


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

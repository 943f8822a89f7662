"""Batches: every datum once an epoch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowvae.data import Batches, Split


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 99))
def test_an_epoch_is_every_image_once(count, batch_size, seed):
    split = Split(torch.arange(count, dtype=torch.float32)[:, None] / 100)
    batches = Batches(split, batch_size, torch.Generator().manual_seed(seed))
    seen = list(batches)
    assert len(seen) == len(batches)
    assert all(len(x) == batch_size for x in seen[:-1])
    assert torch.cat(seen).sort(0).values.equal(split.data)
    again = list(Batches(split, batch_size, torch.Generator().manual_seed(seed)))
    assert torch.equal(torch.cat(again), torch.cat(seen))


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    together=st.integers(1, 60),
    skipped=st.integers(0, 12),
)
def test_batches_are_the_same_however_many_are_fetched_together(
    count, batch_size, together, skipped
):
    split = Split(torch.arange(count, dtype=torch.float32)[:, None] / 100)

    def fetched(values: int, skipped: int) -> list[torch.Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flowvae.data.batches._VALUES_AT_ONCE", values)
            batches = Batches(split, batch_size, torch.Generator().manual_seed(0))
            return list(batches.skipping(skipped))

    expected = fetched(1, 0)[skipped:]
    found = fetched(together, skipped)
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))

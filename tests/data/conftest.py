"""What the tests of data share."""

from __future__ import annotations

import pytest

from flowvae.data import Dataset, load_dataset
from flowvae.data import rows as rows_module


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load_dataset("mnist")


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, and buffers of a few blocks, so that small files have many."""
    monkeypatch.setattr(rows_module, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(rows_module, "_LEAST_BLOCKS", 3)
    monkeypatch.setattr(rows_module, "_POOL_BYTES", 400)

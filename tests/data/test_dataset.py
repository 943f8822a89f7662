"""Splits and what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from flowvae import UserError
from flowvae.data import Dataset


def test_splits_must_fit_together():
    with pytest.raises(UserError, match="one shape"):
        Dataset.from_arrays(np.zeros((5, 3)), np.zeros((5, 4)))
    with pytest.raises(UserError, match="train labels: expected 5 integers"):
        Dataset.from_arrays(np.zeros((5, 3)), np.zeros((5, 3)), np.zeros(4, int))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 255], [255, 0]], np.uint8), (0.0, 1.0, True, True, True)),
        (np.array([[0, 7], [255, 0]], np.uint8), (0.0, 1.0, False, False, True)),
        (np.array([[0, 7], [3, 0]]), (0.0, 7.0, True, False, False)),
        (np.array([[0.0, 0.2], [1.0, 3 / 255]]), (0.0, 1.0, False, False, True)),
        (np.array([[0.0, 0.21], [1.0, 0.5]]), (0.0, 1.0, False, False, False)),
        (np.array([[-1.5, 0.21], [1.0, 0.5]]), (-1.5, 1.0, False, False, False)),
    ],
)
def test_statistics(array, expected):
    found = Dataset.from_arrays(array, array).statistics
    assert (found.low, found.high) == pytest.approx(expected[:2])
    assert (found.integer, found.binary, found.eight_bit) == expected[2:]


def test_at_most_so_many_evenly_over_the_split():
    rows = np.arange(101, dtype=np.float32)[:, None]
    split = Dataset.from_arrays(rows, rows, np.arange(101), np.arange(101)).test
    some = split.at_most(5)
    assert some.values()[:, 0].tolist() == [0, 25, 50, 75, 100]
    assert some.labels is not None
    assert some.labels.tolist() == [0, 25, 50, 75, 100]
    assert split.at_most(101) is split

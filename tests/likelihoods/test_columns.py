"""Rows of a table."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.helpers.likelihoods import at_random, real_line


def test_a_row_of_a_table_has_total_probability_one():
    p = at_random("mixed", 1.5)
    numeric, weights = real_line()
    total, mean = 0.0, torch.zeros(5, dtype=torch.float64)
    for colour, smoker in itertools.product(range(3), range(2)):
        x = torch.zeros(len(numeric), 5, dtype=torch.float64)
        x[:, 0], x[:, 1 + colour], x[:, 4] = numeric, 1, smoker
        density = p.log_prob(x).exp() * weights
        total += density.sum().item()
        mean += (density[:, None] * x).sum(0)
    assert total == pytest.approx(1.0, abs=1e-8)
    torch.testing.assert_close(mean, p.mean, atol=1e-7, rtol=0)

"""Adam's kernel against the formula in float64 and PyTorch's own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")

from flowvae.kernels import adam, team

SETTINGS = (1e-2, (0.9, 0.99), 1e-8, 0.1)
NOTHING = 1e-30


def in_float64(p, g, m, v, step):
    """One update."""
    rate, (one, two), eps, decay = SETTINGS
    p, g, m, v = (x.double() for x in (p, g, m, v))
    g = g + decay * p
    m, v = one * m + (1 - one) * g, two * v + (1 - two) * g * g
    root = (v / (1 - two**step)).sqrt()
    return p - rate * m / (1 - one**step) / (root + eps), m, v


@given(
    st.lists(st.sampled_from([1, 5, 16, 255, 257, 40_000, 70_001]), min_size=1, max_size=4),
    st.integers(1, 1000),
    st.booleans(),
    st.integers(0, 99),
)
def test_an_update_is_the_formulas(sizes, step, guarded, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(n: int) -> torch.Tensor:
        # Away from the start of its memory, so that not every tensor is aligned
        scale = 10.0 ** torch.randint(-6, 6, (n + 3,), generator=generator)
        return (torch.randn(n + 3, generator=generator) * scale)[seed % 4 :][:n]

    tensors = [[normal(n), normal(n), normal(n), normal(n).abs()] for n in sizes]
    before = [[x.clone() for x in each] for each in tensors]
    assert adam.update(*zip(*tensors, strict=True), step, *SETTINGS, NOTHING, guarded)
    for (p, g, m, v), old in zip(tensors, before, strict=True):
        assert torch.equal(g, old[1])
        for mine, truth in zip((p, m, v), in_float64(*old, step), strict=True):
            # A sum of two may cancel: measured by what went in.
            size = sum(x.abs() for x in old).max().double()
            torch.testing.assert_close(mine.double(), truth, rtol=2e-5, atol=float(1e-6 * size))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("where", [0, 39_999, 69_999])
def test_where_the_norm_is_not_finite_nothing_is_done(bad, where):
    tensors = [[torch.rand(n) for n in (70_000, 3)] for _ in range(4)]
    tensors[1][0][where] = bad
    before = [[x.clone() for x in each] for each in tensors]
    assert not adam.update(*tensors, 1, *SETTINGS, NOTHING, True)
    for each, old in zip(tensors, before, strict=True):
        assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(each, old, strict=True))
    assert adam.update(*tensors, 1, *SETTINGS, NOTHING, False)  # PyTorch's way
    assert not torch.equal(tensors[0][1], before[0][1])


def test_what_decays_becomes_zero_before_it_is_denormal():
    p, m, v = torch.full((300,), 1e-3), torch.zeros(300), torch.zeros(300)
    g = torch.zeros(300)
    smallest = math.inf
    for step in range(1, 2000):
        adam.update([p], [g], [m], [v], step, 1e-3, (0.9, 0.9), 1e-8, 1e-5, NOTHING, True)
        left = [x[x != 0].abs().min() for x in (p, m, v) if x.any()]
        smallest = min([smallest, *map(float, left)])
    assert smallest >= NOTHING
    assert not p.any()
    assert not m.any()


@pytest.mark.parametrize("openmp", [True, False])
def test_threads_change_no_bit(monkeypatch, openmp):
    monkeypatch.setattr(team, "_WORTH_A_THREAD", 1)
    if not openmp:
        monkeypatch.setattr(team, "_team", lambda: None)

    def result(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        generator = torch.Generator().manual_seed(0)
        tensors = [[torch.rand(n, generator=generator) for n in (70_000, 5)] for _ in range(4)]
        for step in range(1, 4):
            adam.update(*tensors, step, *SETTINGS, NOTHING, True)
        return tensors[0]

    try:
        one, three = result(1), result(3)
    finally:
        torch.set_num_threads(1)
    assert all(map(torch.equal, one, three))

"""Elementary functions of the kernels against high-precision arithmetic."""

from __future__ import annotations

import pytest

mpmath = pytest.importorskip("mpmath")
pytest.importorskip("numba")

import builtins

import numpy as np


def test_elementary_functions_to_the_last_places():
    """Against 60 digits, over everything they are used for."""
    from numba import njit

    from flowvae.kernels.math import tanh_and_slope
    from flowvae.kernels.planar.cpu_scalars import constrained

    @njit(error_model="numpy")
    def tabulate(x, out):
        for i in range(len(x)):
            out[0, i], out[1, i] = tanh_and_slope(x[i])
            out[2, i], out[3, i], out[4, i], out[5, i] = constrained(x[i], 1.0, 0.0, 1e-300)

    rng = np.random.default_rng(0)
    x = np.concatenate(
        [10 * rng.normal(size=300), 1e-6 * rng.normal(size=50), rng.uniform(-600, 600, 100), [0.0]]
    )
    out = np.empty((6, len(x)))
    tabulate(x, out)
    mp = mpmath.mp.clone()
    mp.dps = 700
    a0 = mp.log(mp.e - 1)
    for i, value in enumerate(builtins.map(float, x)):
        v = mp.mpf(value)
        s = mp.log1p(mp.exp(v + a0))
        truth = [mp.tanh(v), mp.sech(v) ** 2, s - 1 - v, s - 1, s, 1 / (1 + mp.exp(-v - a0))]
        for k, ulps in ((0, 2), (1, 4), (3, 4), (5, 4)):
            exact = pytest.approx(float(truth[k]), rel=ulps * 2.3e-16, abs=1e-300)
            assert out[k, i] == exact, value
        assert out[2, i] == pytest.approx(float(truth[2]), rel=1e-14, abs=4e-16 * abs(value))
        assert out[4, i] == pytest.approx(float(truth[4]), rel=1e-10)

"""The planar flow on a CPU for many points a parameter set: each direction in one pass.

There are P parameter sets and S points for each, (S, P, D). ``LANES`` samples of one set are worked
on at a time, turned to (D, LANES), so that every sum over d is vector code over the lanes.
Letters, addresses and float64 arithmetic are as in cpu.py; a_k is kept as (P, K, S).

A task is one set and one chunk of its samples. Gradients of the parameters are sums over samples;
each task leaves its own, and :func:`finish` adds them in their order, so results do not depend on
how tasks are shared among threads.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from flowvae.kernels.compile import exact, fast
from flowvae.kernels.math import claim, done, row, tanh_and_slope
from flowvae.kernels.planar.cpu_scalars import (
    ROUNDING,
    constrained,
    log_abs_det,
    log_det_slopes,
    solve,
)

__all__ = ["CHUNK", "finish", "forward", "inverse", "pullback"]

LANES = 64
CHUNK = 2048  # samples a task

_A, _T, _H, _LADJ, _LADJ_BAR, _A_BAR, _M, _S = (LANES * row for row in range(8))
_SCRATCH = 8 * LANES


@exact
def _parameters(token, w, u, b, K, D, p, shift, tiny):
    """Of set p in float64: w and û, (2, K, D); b, r, m, s, σ, wᵀu - shift, 1/‖w‖² or 0, (7, K)."""
    vectors, numbers = np.empty((2, K, D)), np.empty((7, K))
    for k in range(K):
        w_k = carray(row(w[0], token, p * w[1] + k * D), (D,))
        u_k = carray(row(u[0], token, p * u[1] + k * D), (D,))
        wu, ww = 0.0, 0.0
        for d in range(D):
            wu += np.float64(w_k[d]) * u_k[d]
            ww += np.float64(w_k[d]) * w_k[d]
        r, m, s, sigma = constrained(wu, ww, shift, tiny)
        for d in range(D):
            vectors[0, k, d] = w_k[d]
            vectors[1, k, d] = u_k[d] + r * w_k[d]
        numbers[0, k] = carray(row(b[0], token, p * b[1]), (K,))[k]
        numbers[1, k], numbers[2, k], numbers[3, k], numbers[4, k] = r, m, s, sigma
        numbers[5, k] = wu - shift
        numbers[6, k] = 0.0 if ww < tiny else 1.0 / ww
    return vectors, numbers


@fast
def _add_dot(q, to, vector, points):
    """q[to] += Σ_d vector_d points_d, lane by lane."""
    for d in range(len(vector)):
        x = vector[d]
        line = points[d]
        for i in range(LANES):
            q[to + i] += x * line[i]


@fast
def _add_outer(points, vector, q, by, sign):
    """points_d += sign vector_d q[by], lane by lane."""
    for d in range(len(vector)):
        x = sign * vector[d]
        line = points[d]
        for i in range(LANES):
            line[i] += x * q[by + i]


@fast
def _add_sums(total, points, q, by, sign, n):
    """total_d += sign Σ_lanes q[by] points_d over the first n lanes."""
    for d in range(len(total)):
        line, x = points[d], 0.0
        for i in range(n):
            x += q[by + i] * line[i]
        total[d] += sign * x


@exact
def _load(points, token, source, s, n, p):
    for i in range(n):
        values = carray(row(source[0], token, (s + i) * source[1] + p * source[2]), (len(points),))
        for d in range(len(points)):
            points[d, i] = values[d]


@exact
def _store(points, token, target, s, n, p, P):
    for i in range(n):
        values = carray(row(target, token, ((s + i) * P + p) * len(points)), (len(points),))
        for d in range(len(points)):
            values[d] = points[d, i]


@exact
def forward(
    token, z, w, u, b, z_K, ladj, a, exact_end, S, P, K, D, shift, tiny, save, counter, from_the_end
):
    """z_K, Σ ladj_k and, if ``save``, a_k and z_K in float64, for the tasks it claims.

    ``z`` is (address, stride from sample to sample, from set to set).
    """
    q, points = np.zeros(_SCRATCH), np.zeros((D, LANES))
    chunks = (S + CHUNK - 1) // CHUNK
    task = claim(counter, P * chunks, 1, from_the_end)
    while task < P * chunks:
        p, start = task // chunks, (task % chunks) * CHUNK
        vectors, numbers = _parameters(token, w, u, b, K, D, p, shift, tiny)
        for s in range(start, min(S, start + CHUNK), LANES):
            n = min(LANES, S - s)
            _load(points, token, z, s, n, p)
            q[_LADJ : _LADJ + LANES] = 0.0
            for k in range(K):
                q[_A : _A + LANES] = numbers[0, k]
                _add_dot(q, _A, vectors[0, k], points)
                _lanes_forward(q, numbers[2, k], numbers[3, k], numbers[5, k])
                _add_outer(points, vectors[1, k], q, _T, 1.0)
                if save:
                    kept = carray(row(a, 1.0, (p * K + k) * S + s), (n,))
                    kept[:] = q[_A : _A + n]
            _store(points, token, z_K, s, n, p, P)
            if save:
                _store(points, 1.0, exact_end, s, n, p, P)
            for i in range(n):
                carray(row(ladj, token, (s + i) * P + p), (1,))[0] = q[_LADJ + i]
        done(counter, 1)
        task = claim(counter, P * chunks, 1, from_the_end)


@exact
def _lanes_forward(q, m, s, d):
    for i in range(LANES):
        t, h = tanh_and_slope(q[_A + i])
        q[_T + i] = t
        q[_LADJ + i] += log_abs_det(t, h, m, s, d)


@exact
def inverse(
    token, z_K, w, u, b, z, ladj, a, exact_end, S, P, K, D, shift, tiny, save, counter, from_the_end
):
    """z, -Σ ladj_k and, if ``save``, a_k and z in float64, from z_K; as in :func:`forward`."""
    q, points = np.zeros(_SCRATCH), np.zeros((D, LANES))
    chunks = (S + CHUNK - 1) // CHUNK
    task = claim(counter, P * chunks, 1, from_the_end)
    while task < P * chunks:
        p, start = task // chunks, (task % chunks) * CHUNK
        vectors, numbers = _parameters(token, w, u, b, K, D, p, shift, tiny)
        for s in range(start, min(S, start + CHUNK), LANES):
            n = min(LANES, S - s)
            _load(points, token, z_K, s, n, p)
            q[_LADJ : _LADJ + LANES] = 0.0
            for k in range(K - 1, -1, -1):
                q[_A : _A + LANES] = numbers[0, k]
                _add_dot(q, _A, vectors[0, k], points)
                q[_M : _M + LANES] = numbers[2, k]
                q[_S : _S + LANES] = numbers[3, k]
                q[_A + n : _A + LANES] = 0.0
                solve(q, _A, _M, _S, LANES)
                _lanes_inverse(q, numbers[2, k], numbers[3, k], numbers[5, k])
                _add_outer(points, vectors[1, k], q, _T, -1.0)
                # Move along w to where wᵀz + b is a, as settle in cpu_layers.py.
                q[_H : _H + LANES] = numbers[0, k]
                _add_dot(q, _H, vectors[0, k], points)
                for i in range(LANES):
                    rest = q[_A + i] - q[_H + i]
                    noise = ROUNDING * (abs(q[_A + i]) + abs(numbers[0, k]))
                    q[_H + i] = rest * numbers[6, k] if abs(rest) > noise else 0.0
                _add_outer(points, vectors[0, k], q, _H, 1.0)
                if save:
                    kept = carray(row(a, 1.0, (p * K + k) * S + s), (n,))
                    kept[:] = q[_A : _A + n]
            _store(points, token, z, s, n, p, P)
            if save:
                _store(points, 1.0, exact_end, s, n, p, P)
            for i in range(n):
                carray(row(ladj, token, (s + i) * P + p), (1,))[0] = q[_LADJ + i]
        done(counter, 1)
        task = claim(counter, P * chunks, 1, from_the_end)


@exact
def _lanes_inverse(q, m, s, d):
    for i in range(LANES):
        t, h = tanh_and_slope(q[_A + i])
        q[_T + i] = t
        q[_LADJ + i] -= log_abs_det(t, h, m, s, d)


@exact
def pullback(
    token, end, w, u, b, a, end_bar, ladj_bar, start_bar, sums,
    S, P, K, D, shift, tiny, inverted, counter, from_the_end,
):  # fmt: skip
    """The adjoint of :func:`forward`, or of :func:`inverse` if ``inverted``.

    ``end`` is where that direction ended (z_K, or z) in float64, ``end_bar`` the gradient there,
    ``start_bar`` where to write that of its start; all (S, P, D). ``sums``, (tasks, K, 2 D + 2) in
    float64, takes of each task Σ t z̄_k, Σ ā z_{k-1}, Σ ladj_bar ∂ladj/∂(wᵀu) and Σ ā.
    """
    q, points, g = np.zeros(_SCRATCH), np.zeros((D, LANES)), np.zeros((D, LANES))
    chunks = (S + CHUNK - 1) // CHUNK
    task = claim(counter, P * chunks, 1, from_the_end)
    while task < P * chunks:
        p, start = task // chunks, (task % chunks) * CHUNK
        vectors, numbers = _parameters(token, w, u, b, K, D, p, shift, tiny)
        total = carray(row(sums, 1.0, task * K * (2 * D + 2)), (K, 2 * D + 2))
        total[:] = 0.0
        for s in range(start, min(S, start + CHUNK), LANES):
            n = min(LANES, S - s)
            _load(points, 1.0, (end, P * D, D), s, n, p)
            _load(g, token, (end_bar, P * D, D), s, n, p)
            q[_LADJ_BAR : _LADJ_BAR + LANES] = 0.0
            for i in range(n):
                q[_LADJ_BAR + i] = carray(row(ladj_bar, token, (s + i) * P + p), (1,))[0]
            for j in range(K):
                k = j if inverted else K - 1 - j
                q[_A : _A + n] = carray(row(a, 1.0, (p * K + k) * S + s), (n,))
                q[_A_BAR : _A_BAR + LANES] = 0.0
                _add_dot(q, _A_BAR, vectors[1, k], g)
                m, s_k, sigma = numbers[2, k], numbers[3, k], numbers[4, k]
                to, sign = total[k], -1.0 if inverted else 1.0
                if inverted:
                    slope = _lanes_inverse_adjoint(q, m, s_k, sigma, n)
                    _add_outer(g, vectors[0, k], q, _A_BAR, 1.0)
                    _add_sums(to[:D], g, q, _T, -1.0, n)
                    _add_sums(to[D : 2 * D], points, q, _A_BAR, 1.0, n)
                    _add_outer(points, vectors[1, k], q, _T, 1.0)
                else:
                    slope = _lanes_adjoint(q, m, s_k, sigma, n)
                    _add_outer(points, vectors[1, k], q, _T, -1.0)
                    _add_sums(to[:D], g, q, _T, 1.0, n)
                    _add_sums(to[D : 2 * D], points, q, _A_BAR, 1.0, n)
                    _add_outer(g, vectors[0, k], q, _A_BAR, 1.0)
                to[2 * D] += sign * slope
                for i in range(n):
                    to[2 * D + 1] += q[_A_BAR + i]
            _store(g, token, start_bar, s, n, p, P)
        done(counter, 1)
        task = claim(counter, P * chunks, 1, from_the_end)


@exact
def _lanes_adjoint(q, m, s, sigma, n):
    """ûᵀz̄ -> ā = h ûᵀz̄ + ladj_bar κ; gives Σ ladj_bar ∂ladj/∂(wᵀu)."""
    for i in range(LANES):
        t, h = tanh_and_slope(q[_A + i])
        kappa, slope, _ = log_det_slopes(t, h, m, s, sigma)
        q[_T + i] = t
        q[_H + i] = slope * q[_LADJ_BAR + i]
        q[_A_BAR + i] = h * q[_A_BAR + i] + q[_LADJ_BAR + i] * kappa
    total = 0.0
    for i in range(n):
        total += q[_H + i]
    return total


@exact
def _lanes_inverse_adjoint(q, m, s, sigma, n):
    for i in range(LANES):
        t, h = tanh_and_slope(q[_A + i])
        kappa, slope, det = log_det_slopes(t, h, m, s, sigma)
        q[_T + i] = t
        q[_H + i] = slope * q[_LADJ_BAR + i]
        q[_A_BAR + i] = -(h * q[_A_BAR + i] + q[_LADJ_BAR + i] * kappa) / det
    total = 0.0
    for i in range(n):
        total += q[_H + i]
    return total


@exact
def finish(
    token, w, u, b, sums, w_bar, u_bar, b_bar, S, P, K, D, shift, tiny, counter, from_the_end
):
    """Gradients of the sets it claims from the sums of their tasks."""
    chunks = (S + CHUNK - 1) // CHUNK
    p = claim(counter, P, 1, from_the_end)
    while p < P:
        vectors, numbers = _parameters(token, w, u, b, K, D, p, shift, tiny)
        for k in range(K):
            total = np.zeros(2 * D + 2)
            for chunk in range(chunks):
                task = p * chunks + chunk
                total += carray(row(sums, 1.0, (task * K + k) * (2 * D + 2)), (2 * D + 2,))
            r, sigma, by_ww = numbers[1, k], numbers[4, k], numbers[6, k]
            w_k = vectors[0, k]
            r_bar = 0.0
            for d in range(D):
                r_bar += w_k[d] * total[d]
            wu_bar = r_bar * (sigma - 1.0) * by_ww + total[2 * D]
            ww_bar2 = -2.0 * r_bar * r * by_ww
            u_k = carray(row(u[0], token, p * u[1] + k * D), (D,))
            dw = carray(row(w_bar, token, (p * K + k) * D), (D,))
            du = carray(row(u_bar, token, (p * K + k) * D), (D,))
            for d in range(D):
                du[d] = total[d] + wu_bar * w_k[d]
                dw[d] = total[D + d] + r * total[d] + wu_bar * u_k[d] + ww_bar2 * w_k[d]
            carray(row(b_bar, token, p * K), (K,))[k] = total[2 * D + 1]
        done(counter, 1)
        p = claim(counter, P, 1, from_the_end)

"""The planar flow on a CPU for one point a parameter set: each direction in one pass.

Letters are those of docs/planar.md. There are P parameter sets, each (K, D), and P points (D,).
Arithmetic is float64 whatever the tensors hold: a rounding of a_k in float32 would be multiplied by
every later layer. ``LANES`` parameter sets are worked on at a time: the sums over d run along
memory, and everything that is one number per layer (m, tanh, the logarithm) runs over the lanes as
vector code. Many samples a parameter set are cpu_shared.py's.

Addresses and strides travel as integers: turning tensors into arrays costs more than small cases.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from flowvae.flows.kernels.cpu_math import (
    claim,
    constrained,
    done,
    load,
    log_abs_det,
    log_det_slopes,
    prefetch,
    row,
    select,
    solve,
    store,
    tanh_and_slope,
)

__all__ = ["KEPT", "LANES", "backward", "forward", "inverse", "inverse_backward"]

LANES = 16
# Numbers kept per layer for the adjoint, by whether the map is inverted. They lie together lane by
# lane, (⌈P / LANES⌉, K, KEPT, LANES): one stream to write, where one for each set would wait for
# memory.
KEPT = {False: 7, True: 9}
_FORWARD, _INVERSE = KEPT[False], KEPT[True]

# One number per lane, all in one scratch array so that LLVM knows them not to overlap. The first
# ones are what the adjoints need of a layer and does not depend on gradients, in the order of
# ``kept``: t, r, h, κ = ∂ladj/∂a, ∂ladj/∂(wᵀu), the factors of r̄ in the gradients of wᵀu and wᵀw,
# 1 + h m, wᵀw.
_ROWS = 17
_T, _R, _H, _KAPPA, _SLOPE, _BY_WU, _BY_WW, _DET, _WW, _WU, _A, _RT, _LADJ, _M, _S, _SIGMA, _B = (
    LANES * row for row in range(_ROWS)
)

_EXACT = {"error_model": "numpy", "nogil": True, "cache": True}
_FAST = {**_EXACT, "fastmath": {"reassoc", "contract", "nsz"}}


@njit(**_FAST)
def _dots(w, u, z, D):
    """wᵀu, wᵀw and wᵀz."""
    wu, ww, wz = 0.0, 0.0, 0.0
    for d in range(D):
        x = load(w, d, "parameters")
        wu += x * load(u, d, "parameters")
        ww += x * x
        wz += x * load(z, d, "z")
    return wu, ww, wz


@njit(**_FAST)
def _dots_of_gradient(w, u, g, D):
    """wᵀg and uᵀg."""
    wg, ug = 0.0, 0.0
    for d in range(D):
        x = load(g, d, "z_bar")
        wg += load(w, d, "parameters") * x
        ug += load(u, d, "parameters") * x
    return wg, ug


@njit(**_FAST)
def _move(z, w, u, D, t, rt):
    """z += t û, û = u + r w."""
    for d in range(0, D, 16):
        prefetch(w, 2 * D + d)
        prefetch(u, 2 * D + d)
    for d in range(D):
        x, y = load(w, d, "parameters"), load(u, d, "parameters")
        store(z, d, load(z, d, "z") + y * t + x * rt, "z")


@njit(**_FAST)
def _settle(z, w, D, wz, by_ww):
    """Move z along w to where wᵀz is what it must be.

    z_k - û tanh a cancels where û is large, and the map would magnify that error again.
    """
    found = 0.0
    for d in range(D):
        found += load(w, d, "parameters") * load(z, d, "z")
    step = (wz - found) * by_ww
    for d in range(D):
        store(z, d, load(z, d, "z") + step * load(w, d, "parameters"), "z")


@njit(**_FAST)
def _move_adjoint(z, g, w, u, dw, du, D, t, r, a_bar, wu_bar, ww_bar2):
    """One layer of the adjoint for one point: z_k, z̄_k -> z_{k-1}, z̄_{k-1}, with w̄_k and ū_k."""
    for d in range(D):
        x, y, v = load(w, d, "parameters"), load(u, d, "parameters"), load(g, d, "z_bar")
        point = load(z, d, "z") - t * (y + r * x)
        store(du, d, t * v + wu_bar * x, "u_bar")
        store(dw, d, a_bar * point + t * r * v + wu_bar * y + ww_bar2 * x, "w_bar")
        store(g, d, v + a_bar * x, "z_bar")
        store(z, d, point, "z")


@njit(**_FAST)
def _move_inverse_adjoint(z, g, w, u, dw, du, D, t, r, a_bar, wu_bar, ww_bar2):
    """One layer of the inverse's adjoint: z_{k-1}, z̄_{k-1} -> z_k, z̄_k, with w̄_k and ū_k."""
    for d in range(D):
        x, y, point = load(w, d, "parameters"), load(u, d, "parameters"), load(z, d, "z")
        v = load(g, d, "z_bar") + a_bar * x
        store(du, d, wu_bar * x - t * v, "u_bar")
        store(dw, d, a_bar * point - t * r * v + wu_bar * y + ww_bar2 * x, "w_bar")
        store(g, d, v, "z_bar")
        store(z, d, point + t * (y + r * x), "z")


@njit(**_EXACT)
def forward(token, z, w, u, b, z_K, ladj, kept, exact_end, P, K, D, shift, tiny, save, counter):
    """z_K, Σ ladj_k and, if ``save``, what the adjoint needs, for all sets it claims.

    ``z``, ``w``, ``u`` and ``b`` are (address, stride from set to set); ``z_K``, ``ladj``, ``kept``
    and ``exact_end``, z_K again (both float64), are addresses of contiguous memory.
    """
    q, points = np.zeros(_ROWS * LANES), np.zeros((LANES, D))
    at = points.ctypes.data
    p = claim(counter, LANES)
    while p < P:
        n = min(LANES, P - p)
        _load(points, token, z, p, n)
        q[_LADJ : _LADJ + LANES] = 0.0
        for k in range(K):
            for i in range(n):
                w_k = row(w[0], token, (p + i) * w[1] + k * D)
                u_k = row(u[0], token, (p + i) * u[1] + k * D)
                q[_WU + i], q[_WW + i], wz = _dots(w_k, u_k, row(at, 1.0, i * D), D)
                q[_A + i] = wz + carray(row(b[0], token, (p + i) * b[1]), (K,))[k]
            _lanes_forward(q, shift, tiny)
            for i in range(n):
                w_k = row(w[0], token, (p + i) * w[1] + k * D)
                u_k = row(u[0], token, (p + i) * u[1] + k * D)
                _move(row(at, 1.0, i * D), w_k, u_k, D, q[_T + i], q[_RT + i])
            if save:
                _lanes_adjoint(q, tiny)
                _keep(q, kept, p, k, K, _FORWARD)
        _store(points, q, token, z_K, ladj, exact_end, p, n, save)
        done(counter, n)
        p = claim(counter, LANES)


@njit(**_EXACT)
def _lanes_forward(q, shift, tiny):
    for i in range(LANES):
        r, m, s, q[_SIGMA + i] = constrained(q[_WU + i], q[_WW + i], shift, tiny)
        t, h = tanh_and_slope(q[_A + i])
        q[_LADJ + i] += log_abs_det(t, h, m, s, q[_WU + i] - shift)
        q[_R + i], q[_M + i], q[_S + i] = r, m, s
        q[_T + i], q[_H + i], q[_RT + i] = t, h, r * t


@njit(**_EXACT)
def inverse(token, z_K, w, u, b, z, ladj, kept, exact_end, P, K, D, shift, tiny, save, counter):
    """z, -Σ ladj_k and, if ``save``, what the adjoint needs, from z_K; as in :func:`forward`."""
    q, points = np.zeros(_ROWS * LANES), np.zeros((LANES, D))
    at = points.ctypes.data
    p = claim(counter, LANES)
    while p < P:
        n = min(LANES, P - p)
        _load(points, token, z_K, p, n)
        q[_LADJ : _LADJ + LANES] = 0.0
        for k in range(K - 1, -1, -1):
            for i in range(n):
                w_k = row(w[0], token, (p + i) * w[1] + k * D)
                u_k = row(u[0], token, (p + i) * u[1] + k * D)
                q[_WU + i], q[_WW + i], wz = _dots(w_k, u_k, row(at, 1.0, i * D), D)
                q[_B + i] = carray(row(b[0], token, (p + i) * b[1]), (K,))[k]
                q[_A + i] = wz + q[_B + i]
            _lanes_inverse(q, shift, tiny)
            for i in range(n):
                w_k = row(w[0], token, (p + i) * w[1] + k * D)
                u_k = row(u[0], token, (p + i) * u[1] + k * D)
                _move(row(at, 1.0, i * D), w_k, u_k, D, -q[_T + i], -q[_RT + i])
                by_ww = 0.0 if q[_WW + i] < tiny else 1.0 / q[_WW + i]
                _settle(row(at, 1.0, i * D), w_k, D, q[_A + i] - q[_B + i], by_ww)
            if save:
                _lanes_adjoint(q, tiny)
                _keep(q, kept, p, k, K, _INVERSE)
        _store(points, q, token, z, ladj, exact_end, p, n, save)
        done(counter, n)
        p = claim(counter, LANES)


@njit(**_EXACT)
def _lanes_inverse(q, shift, tiny):
    for i in range(LANES):
        q[_R + i], q[_M + i], q[_S + i], q[_SIGMA + i] = constrained(
            q[_WU + i], q[_WW + i], shift, tiny
        )
    solve(q, _A, _M, _S, LANES)
    for i in range(LANES):
        q[_T + i], q[_H + i] = tanh_and_slope(q[_A + i])
        q[_RT + i] = q[_R + i] * q[_T + i]
        q[_LADJ + i] -= log_abs_det(q[_T + i], q[_H + i], q[_M + i], q[_S + i], q[_WU + i] - shift)


@njit(**_EXACT)
def _lanes_adjoint(q, tiny):
    """κ = ∂ladj/∂a, ∂ladj/∂(wᵀu), 1 + h m, and the factors of r̄ in the gradients of wᵀu and wᵀw."""
    for i in range(LANES):
        ww = q[_WW + i]
        by_ww = select(ww < tiny, 0.0, 1.0 / select(ww < tiny, 1.0, ww))
        q[_BY_WU + i] = (q[_SIGMA + i] - 1.0) * by_ww
        q[_BY_WW + i] = -2.0 * q[_R + i] * by_ww
        q[_KAPPA + i], q[_SLOPE + i], q[_DET + i] = log_det_slopes(
            q[_T + i], q[_H + i], q[_M + i], q[_S + i], q[_SIGMA + i]
        )


@njit(**_EXACT)
def _keep(q, kept, p, k, K, rows):
    numbers = carray(row(kept, 1.0, (p * K + k * LANES) * rows), (rows * LANES,))
    for i in range(rows * LANES):
        numbers[i] = q[i]


@njit(**_EXACT)
def _load(points, token, source, p, n):
    D = points.shape[1]
    for i in range(n):
        values = carray(row(source[0], token, (p + i) * source[1]), (D,))
        for d in range(D):
            points[i, d] = values[d]


@njit(**_EXACT)
def _store(points, q, token, target, ladj, exact_end, p, n, save):
    D = points.shape[1]
    for i in range(n):
        values = carray(row(target, token, (p + i) * D), (D,))
        for d in range(D):
            values[d] = points[i, d]
        if save:
            exact = carray(row(exact_end, 1.0, (p + i) * D), (D,))
            for d in range(D):
                exact[d] = points[i, d]
        carray(row(ladj, token, p + i), (1,))[0] = q[_LADJ + i]


@njit(**_EXACT)
def backward(
    token,
    z_K,
    w,
    u,
    kept,
    z_K_bar,
    ladj_bar,
    z_bar,
    w_bar,
    u_bar,
    b_bar,
    P,
    K,
    D,
    counter,
):
    """The adjoint: gradients of z, w, u and b from those of z_K and Σ ladj_k.

    z_{k-1} is walked back from z_k = z_{k-1} + û_k tanh a_k, so all that was kept is ``KEPT``
    numbers a layer, beside ``z_K`` in float64: the rounding of the result would be walked back
    with it.
    """
    z, g = np.zeros(D), np.zeros(D)
    z_at, g_at = row(z.ctypes.data, 1.0, 0), row(g.ctypes.data, 1.0, 0)
    p = claim(counter, 1)
    while p < P:
        end = carray(row(z_K, 1.0, p * D), (D,))
        end_bar = carray(row(z_K_bar, token, p * D), (D,))
        for d in range(D):
            z[d], g[d] = end[d], end_bar[d]
        l_bar = np.float64(carray(row(ladj_bar, token, p), (1,))[0])
        db = carray(row(b_bar, token, p * K), (K,))
        for k in range(K - 1, -1, -1):
            w_k, u_k = row(w[0], token, p * w[1] + k * D), row(u[0], token, p * u[1] + k * D)
            n = _kept(kept, p, k, K, _FORWARD)
            t, r, h = n[_T], n[_R], n[_H]
            wg, ug = _dots_of_gradient(w_k, u_k, g_at, D)
            a_bar = h * (ug + r * wg) + l_bar * n[_KAPPA]
            r_bar = t * wg
            wu_bar = r_bar * n[_BY_WU] + l_bar * n[_SLOPE]
            ww_bar2 = r_bar * n[_BY_WW]
            db[k] = a_bar
            dw, du = row(w_bar, token, (p * K + k) * D), row(u_bar, token, (p * K + k) * D)
            _move_adjoint(z_at, g_at, w_k, u_k, dw, du, D, t, r, a_bar, wu_bar, ww_bar2)
        start_bar = carray(row(z_bar, token, p * D), (D,))
        for d in range(D):
            start_bar[d] = g[d]
        done(counter, 1)
        p = claim(counter, 1)


@njit(**_EXACT)
def inverse_backward(
    token, z, w, u, kept, z_bar, ladj_bar, z_K_bar, w_bar, u_bar, b_bar, P, K, D, counter
):
    """The inverse's adjoint by the implicit function theorem, walking forward from z.

    -ā = β = (h ûᵀz̄ + λ̄ κ) / (1 + h c) is Sherman and Morrison's z̄_k = J⁻ᵀ (z̄_{k-1} - λ̄ κ w).
    """
    point, g = np.zeros(D), np.zeros(D)
    z_at, g_at = row(point.ctypes.data, 1.0, 0), row(g.ctypes.data, 1.0, 0)
    p = claim(counter, 1)
    while p < P:
        start = carray(row(z, 1.0, p * D), (D,))
        start_bar = carray(row(z_bar, token, p * D), (D,))
        for d in range(D):
            point[d], g[d] = start[d], start_bar[d]
        l_bar = np.float64(carray(row(ladj_bar, token, p), (1,))[0])
        db = carray(row(b_bar, token, p * K), (K,))
        for k in range(K):
            w_k, u_k = row(w[0], token, p * w[1] + k * D), row(u[0], token, p * u[1] + k * D)
            n = _kept(kept, p, k, K, _INVERSE)
            t, r, h = n[_T], n[_R], n[_H]
            wg, ug = _dots_of_gradient(w_k, u_k, g_at, D)
            a_bar = -(h * (ug + r * wg) + l_bar * n[_KAPPA]) / n[_DET]
            r_bar = -t * (wg + a_bar * n[_WW])
            wu_bar = r_bar * n[_BY_WU] - l_bar * n[_SLOPE]
            ww_bar2 = r_bar * n[_BY_WW]
            db[k] = a_bar
            dw, du = row(w_bar, token, (p * K + k) * D), row(u_bar, token, (p * K + k) * D)
            _move_inverse_adjoint(z_at, g_at, w_k, u_k, dw, du, D, t, r, a_bar, wu_bar, ww_bar2)
        end_bar = carray(row(z_K_bar, token, p * D), (D,))
        for d in range(D):
            end_bar[d] = g[d]
        done(counter, 1)
        p = claim(counter, 1)


@njit(**_EXACT)
def _kept(kept, p, k, K, rows):
    """Where the numbers of layer k of set p are: the j-th at j LANES."""
    block = p // LANES
    start = ((block * K + k) * rows - block) * LANES + p
    return carray(row(kept, 1.0, start), (rows * LANES,))

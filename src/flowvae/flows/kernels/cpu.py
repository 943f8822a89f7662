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
    constrained,
    log_abs_det,
    log_det_slopes,
    row,
    select,
    solve,
    tanh_and_slope,
)

__all__ = ["backward", "forward", "inverse", "inverse_backward"]

LANES = 16

# One number per lane, all in one scratch array so that LLVM knows them not to overlap.
_ROWS = 15
_WU, _WW, _A, _T, _RT, _LADJ, _M, _S, _R, _H, _KAPPA, _SLOPE, _DET, _BY_WW, _B = (
    LANES * row for row in range(_ROWS)
)

_EXACT = {"error_model": "numpy", "nogil": True, "cache": True}
_FAST = {**_EXACT, "fastmath": {"reassoc", "contract", "nsz"}}


@njit(**_FAST)
def _dots(w, u, z, i, q):
    """wᵀu, wᵀw and wᵀz of lane i."""
    a, b, c = 0.0, 0.0, 0.0
    for d in range(len(z)):
        x = np.float64(w[d])
        a += x * u[d]
        b += x * x
        c += x * z[d]
    q[_WU + i], q[_WW + i], q[_A + i] = a, b, c


@njit(**_FAST)
def _dots_of_parameters(w, u, D, i, q):
    """wᵀu and wᵀw of lane i."""
    a, b = 0.0, 0.0
    for d in range(D):
        x = np.float64(w[d])
        a += x * u[d]
        b += x * x
    q[_WU + i], q[_WW + i] = a, b


@njit(**_FAST)
def _dots_of_gradient(w, u, g):
    """wᵀg and uᵀg."""
    a, b = 0.0, 0.0
    for d in range(len(g)):
        a += w[d] * g[d]
        b += u[d] * g[d]
    return a, b


@njit(**_FAST)
def _move(z, w, u, t, rt):
    """z += t û, û = u + r w."""
    for d in range(len(z)):
        z[d] += u[d] * t + w[d] * rt


@njit(**_FAST)
def _settle(z, w, wz, by_ww):
    """Move z along w to where wᵀz is what it must be.

    z_k - û tanh a cancels where û is large, and the map would magnify that error again.
    """
    found = 0.0
    for d in range(len(z)):
        found += w[d] * z[d]
    step = (wz - found) * by_ww
    for d in range(len(z)):
        z[d] += step * w[d]


@njit(**_FAST)
def _move_adjoint(z, g, w, u, dw, du, t, r, a_bar, wu_bar, ww_bar2):
    """One layer of the adjoint for one point: z_k, z̄_k -> z_{k-1}, z̄_{k-1}, with w̄_k and ū_k."""
    for d in range(len(z)):
        x, y, v = np.float64(w[d]), np.float64(u[d]), g[d]
        point = z[d] - t * (y + r * x)
        du[d] = t * v + wu_bar * x
        dw[d] = a_bar * point + t * r * v + wu_bar * y + ww_bar2 * x
        g[d] = v + a_bar * x
        z[d] = point


@njit(**_FAST)
def _move_inverse_adjoint(z, g, w, u, dw, du, t, r, a_bar, wu_bar, ww_bar2):
    """One layer of the inverse's adjoint: z_{k-1}, z̄_{k-1} -> z_k, z̄_k, with w̄_k and ū_k."""
    for d in range(len(z)):
        x, y, point = np.float64(w[d]), np.float64(u[d]), z[d]
        v = g[d] + a_bar * x
        du[d] = wu_bar * x - t * v
        dw[d] = a_bar * point - t * r * v + wu_bar * y + ww_bar2 * x
        g[d] = v
        z[d] = point + t * (y + r * x)


@njit(**_EXACT)
def forward(token, z, w, u, b, z_K, ladj, a, exact_end, K, D, first, last, shift, tiny, save):
    """z_K, Σ ladj_k and, if ``save``, a_k and z_K in float64, for sets first ≤ p < last.

    ``z``, ``w``, ``u`` and ``b`` are (address, stride from set to set); ``z_K``, ``ladj``,
    ``a`` and ``exact_end`` (both float64) are addresses of contiguous memory.
    """
    q, points = np.zeros(_ROWS * LANES), np.zeros((LANES, D))
    for p in range(first, last, LANES):
        n = min(LANES, last - p)
        for i in range(n):
            start = carray(row(z[0], token, (p + i) * z[1]), (D,))
            for d in range(D):
                points[i, d] = start[d]
        q[_LADJ : _LADJ + LANES] = 0.0
        for k in range(K):
            for i in range(n):
                w_k = carray(row(w[0], token, (p + i) * w[1] + k * D), (D,))
                u_k = carray(row(u[0], token, (p + i) * u[1] + k * D), (D,))
                _dots(w_k, u_k, points[i], i, q)
                q[_A + i] += carray(row(b[0], token, (p + i) * b[1]), (K,))[k]
            _lanes_forward(q, shift, tiny)
            for i in range(n):
                w_k = carray(row(w[0], token, (p + i) * w[1] + k * D), (D,))
                u_k = carray(row(u[0], token, (p + i) * u[1] + k * D), (D,))
                _move(points[i], w_k, u_k, q[_T + i], q[_RT + i])
                if save:
                    carray(row(a, 1.0, (p + i) * K), (K,))[k] = q[_A + i]
        for i in range(n):
            end = carray(row(z_K, token, (p + i) * D), (D,))
            for d in range(D):
                end[d] = points[i, d]
            if save:
                exact = carray(row(exact_end, 1.0, (p + i) * D), (D,))
                for d in range(D):
                    exact[d] = points[i, d]
            carray(row(ladj, token, p + i), (1,))[0] = q[_LADJ + i]


@njit(**_EXACT)
def _lanes_forward(q, shift, tiny):
    for i in range(LANES):
        r, m, s, _ = constrained(q[_WU + i], q[_WW + i], shift, tiny)
        q[_T + i], h = tanh_and_slope(q[_A + i])
        q[_RT + i] = r * q[_T + i]
        q[_LADJ + i] += log_abs_det(q[_T + i], h, m, s, q[_WU + i] - shift)


@njit(**_EXACT)
def inverse(token, z_K, w, u, b, z, ladj, a, exact_end, K, D, first, last, shift, tiny, save):
    """z, -Σ ladj_k and, if ``save``, a_k and z in float64, from z_K; as in :func:`forward`."""
    q, points = np.zeros(_ROWS * LANES), np.zeros((LANES, D))
    for p in range(first, last, LANES):
        n = min(LANES, last - p)
        for i in range(n):
            end = carray(row(z_K[0], token, (p + i) * z_K[1]), (D,))
            for d in range(D):
                points[i, d] = end[d]
        q[_LADJ : _LADJ + LANES] = 0.0
        for k in range(K - 1, -1, -1):
            for i in range(n):
                w_k = carray(row(w[0], token, (p + i) * w[1] + k * D), (D,))
                u_k = carray(row(u[0], token, (p + i) * u[1] + k * D), (D,))
                _dots(w_k, u_k, points[i], i, q)
                q[_B + i] = carray(row(b[0], token, (p + i) * b[1]), (K,))[k]
                q[_A + i] += q[_B + i]
            _lanes_inverse(q, shift, tiny)
            for i in range(n):
                w_k = carray(row(w[0], token, (p + i) * w[1] + k * D), (D,))
                u_k = carray(row(u[0], token, (p + i) * u[1] + k * D), (D,))
                _move(points[i], w_k, u_k, -q[_T + i], -q[_RT + i])
                _settle(points[i], w_k, q[_A + i] - q[_B + i], q[_BY_WW + i])
                if save:
                    carray(row(a, 1.0, (p + i) * K), (K,))[k] = q[_A + i]
        for i in range(n):
            start = carray(row(z, token, (p + i) * D), (D,))
            for d in range(D):
                start[d] = points[i, d]
            if save:
                exact = carray(row(exact_end, 1.0, (p + i) * D), (D,))
                for d in range(D):
                    exact[d] = points[i, d]
            carray(row(ladj, token, p + i), (1,))[0] = q[_LADJ + i]


@njit(**_EXACT)
def _lanes_inverse(q, shift, tiny):
    for i in range(LANES):
        q[_R + i], q[_M + i], q[_S + i], _ = constrained(q[_WU + i], q[_WW + i], shift, tiny)
    solve(q, _A, _M, _S, LANES)
    for i in range(LANES):
        q[_T + i], h = tanh_and_slope(q[_A + i])
        q[_RT + i] = q[_R + i] * q[_T + i]
        zero = q[_WW + i] < tiny
        q[_BY_WW + i] = select(zero, 0.0, 1.0 / select(zero, 1.0, q[_WW + i]))
        q[_LADJ + i] -= log_abs_det(q[_T + i], h, q[_M + i], q[_S + i], q[_WU + i] - shift)


@njit(**_EXACT)
def backward(
    token,
    z_K,
    w,
    u,
    a,
    z_K_bar,
    ladj_bar,
    z_bar,
    w_bar,
    u_bar,
    b_bar,
    K,
    D,
    first,
    last,
    shift,
    tiny,
):
    """The adjoint: gradients of z, w, u and b from those of z_K and Σ ladj_k.

    z_{k-1} is walked back from z_k = z_{k-1} + û_k tanh a_k, so a_k is all that was kept, beside
    ``z_K`` in float64: the rounding of the result would be walked back with it. The lanes are
    layers here: with a_k known, only the sums over d must wait for the layer above.
    """
    q, z, g = np.zeros(_ROWS * LANES), np.zeros(D), np.zeros(D)
    for p in range(first, last):
        end = carray(row(z_K, 1.0, p * D), (D,))
        end_bar = carray(row(z_K_bar, token, p * D), (D,))
        for d in range(D):
            z[d], g[d] = end[d], end_bar[d]
        l_bar = np.float64(carray(row(ladj_bar, token, p), (1,))[0])
        db = carray(row(b_bar, token, p * K), (K,))
        for block in range((K - 1) // LANES, -1, -1):
            low, high = block * LANES, min(K, block * LANES + LANES)
            _lanes_of_layers(token, w, u, a, K, D, p, low, high, shift, tiny, q)
            for k in range(high - 1, low - 1, -1):
                i, offset = k - low, (p * K + k) * D
                w_k = carray(row(w[0], token, p * w[1] + k * D), (D,))
                u_k = carray(row(u[0], token, p * u[1] + k * D), (D,))
                wg, ug = _dots_of_gradient(w_k, u_k, g)
                t, r, h = q[_T + i], q[_R + i], q[_H + i]
                a_bar = h * (ug + r * wg) + l_bar * q[_KAPPA + i]
                r_bar = t * wg
                wu_bar = r_bar * q[_BY_WW + i] + l_bar * q[_SLOPE + i]
                ww_bar2 = r_bar * q[_RT + i]
                db[k] = a_bar
                dw = carray(row(w_bar, token, offset), (D,))
                du = carray(row(u_bar, token, offset), (D,))
                _move_adjoint(z, g, w_k, u_k, dw, du, t, r, a_bar, wu_bar, ww_bar2)
        start_bar = carray(row(z_bar, token, p * D), (D,))
        for d in range(D):
            start_bar[d] = g[d]


@njit(**_EXACT)
def inverse_backward(
    token, z, w, u, a, z_bar, ladj_bar, z_K_bar, w_bar, u_bar, b_bar, K, D, first, last, shift, tiny
):
    """The inverse's adjoint by the implicit function theorem, walking forward from z.

    -ā = β = (h ûᵀz̄ + λ̄ κ) / (1 + h c) is Sherman and Morrison's z̄_k = J⁻ᵀ (z̄_{k-1} - λ̄ κ w).
    """
    q, point, g = np.zeros(_ROWS * LANES), np.zeros(D), np.zeros(D)
    for p in range(first, last):
        start = carray(row(z, 1.0, p * D), (D,))
        start_bar = carray(row(z_bar, token, p * D), (D,))
        for d in range(D):
            point[d], g[d] = start[d], start_bar[d]
        l_bar = np.float64(carray(row(ladj_bar, token, p), (1,))[0])
        db = carray(row(b_bar, token, p * K), (K,))
        for low in range(0, K, LANES):
            high = min(K, low + LANES)
            _lanes_of_layers(token, w, u, a, K, D, p, low, high, shift, tiny, q)
            for k in range(low, high):
                i, offset = k - low, (p * K + k) * D
                w_k = carray(row(w[0], token, p * w[1] + k * D), (D,))
                u_k = carray(row(u[0], token, p * u[1] + k * D), (D,))
                wg, ug = _dots_of_gradient(w_k, u_k, g)
                t, r, h = q[_T + i], q[_R + i], q[_H + i]
                a_bar = -(h * (ug + r * wg) + l_bar * q[_KAPPA + i]) / q[_DET + i]
                r_bar = -t * (wg + a_bar * q[_WW + i])
                wu_bar = r_bar * q[_BY_WW + i] - l_bar * q[_SLOPE + i]
                ww_bar2 = r_bar * q[_RT + i]
                db[k] = a_bar
                dw = carray(row(w_bar, token, offset), (D,))
                du = carray(row(u_bar, token, offset), (D,))
                _move_inverse_adjoint(point, g, w_k, u_k, dw, du, t, r, a_bar, wu_bar, ww_bar2)
        end_bar = carray(row(z_K_bar, token, p * D), (D,))
        for d in range(D):
            end_bar[d] = g[d]


@njit(**_EXACT)
def _lanes_of_layers(token, w, u, a, K, D, p, low, high, shift, tiny, q):
    """What the adjoints need of layers low ≤ k < high of set p and does not depend on gradients."""
    for k in range(low, high):
        w_k = carray(row(w[0], token, p * w[1] + k * D), (D,))
        u_k = carray(row(u[0], token, p * u[1] + k * D), (D,))
        _dots_of_parameters(w_k, u_k, D, k - low, q)
        q[_A + k - low] = carray(row(a, 1.0, p * K), (K,))[k]
    _lanes_adjoint(q, shift, tiny)


@njit(**_EXACT)
def _lanes_adjoint(q, shift, tiny):
    """κ = ∂ladj/∂a, slope = ∂ladj/∂(wᵀu), and the factors of r̄ in the gradients of wᵀu and wᵀw."""
    for i in range(LANES):
        ww = q[_WW + i]
        r, m, s, sigma = constrained(q[_WU + i], ww, shift, tiny)
        t, h = tanh_and_slope(q[_A + i])
        kappa, slope, det = log_det_slopes(t, h, m, s, sigma)
        by_ww = select(ww < tiny, 0.0, 1.0 / select(ww < tiny, 1.0, ww))
        q[_R + i], q[_T + i], q[_H + i] = r, t, h
        q[_KAPPA + i], q[_SLOPE + i], q[_DET + i] = kappa, slope, det
        q[_BY_WW + i] = (sigma - 1.0) * by_ww
        q[_RT + i] = -2.0 * r * by_ww

"""The planar flow on a CPU for one point a parameter set: each direction in one pass.

Letters are those of docs/planar.md. There are P parameter sets, each (K, D), and P points (D,).
Arithmetic is float64 whatever the tensors hold: a rounding of a_k in float32 would be multiplied by
every later layer. ``LANES`` parameter sets are worked on at a time: the sums over d run along
memory, and everything that is one number per layer (m, tanh, the logarithm) runs over the lanes as
vector code. Many samples a parameter set are cpu_shared.py's.

Addresses and strides travel as integers: turning tensors into arrays costs more than small cases.
numba frees an array after the last use of its *name*, whatever its address is still used for. So an
address is taken of an argument only: its array belongs to the caller, who holds it.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from flowvae.kernels.compile import exact, inline
from flowvae.kernels.math import claim, done, prefetch, row
from flowvae.kernels.planar.cpu_lanes import (
    BY_WU,
    BY_WW,
    DET,
    KAPPA,
    LADJ,
    LANES,
    ROWS,
    RT,
    SLOPE,
    WU,
    WW,
    A,
    B,
    H,
    R,
    T,
    lanes_adjoint,
    lanes_forward,
    lanes_inverse,
)
from flowvae.kernels.planar.cpu_layers import (
    dots,
    dots_of_gradient,
    move,
    move_adjoint,
    move_inverse_adjoint,
    settle,
)
from flowvae.kernels.vectors import WIDTH

__all__ = ["KEPT", "LANES", "backward", "forward", "inverse", "inverse_backward"]

# Points whose adjoints are computed side by side: one's sums while the other's are waited for.
_SIDE_BY_SIDE = 2
# Numbers kept per layer for the adjoint, by whether the map is inverted. They lie together lane by
# lane, (⌈P / LANES⌉, K, KEPT, LANES): one stream to write, where one for each set would wait for
# memory.
KEPT = {False: 7, True: 9}
_FORWARD, _INVERSE = KEPT[False], KEPT[True]


@exact
def forward(*arguments):
    """z_K, Σ ladj_k and, if ``save``, what the adjoint needs, for all sets it claims.

    ``z``, ``w``, ``u`` and ``b`` are (address, stride from set to set); ``z_K``, ``ladj``, ``kept``
    and ``exact_end``, z_K again (both float64), are addresses of contiguous memory.
    """
    D = arguments[11]
    _forward(np.zeros(ROWS * LANES), _scratch(LANES, D), *arguments)


@exact
def _forward(
    q,
    points,
    token,
    z,
    w,
    u,
    b,
    z_K,
    ladj,
    kept,
    exact_end,
    P,
    K,
    D,
    shift,
    tiny,
    save,
    counter,
    from_the_end,
):
    at, width = points.ctypes.data, points.shape[1]
    p = claim(counter, P, LANES, from_the_end)
    step = -LANES if from_the_end else LANES
    while p < P:
        n = min(LANES, P - p)
        _load(points, token, z, p, n, D)
        q[LADJ : LADJ + LANES] = 0.0
        for k in range(K):
            for i in range(n):
                w_k = row(w[0], token, (p + i) * w[1] + k * D)
                u_k = row(u[0], token, (p + i) * u[1] + k * D)
                _ask_for_layer(token, w, u, p + i + step, k, D)
                q[WU + i], q[WW + i], wz = dots(w_k, u_k, row(at, 1.0, i * width), D)
                q[A + i] = wz + carray(row(b[0], token, (p + i) * b[1]), (K,))[k]
            lanes_forward(q, shift, tiny)
            for i in range(n):
                w_k = row(w[0], token, (p + i) * w[1] + k * D)
                u_k = row(u[0], token, (p + i) * u[1] + k * D)
                move(row(at, 1.0, i * width), w_k, u_k, D, q[T + i], q[RT + i])
            if save:
                lanes_adjoint(q, tiny)
                _keep(q, kept, p, k, K, _FORWARD)
        _store(points, q, token, z_K, ladj, exact_end, p, n, D, save)
        done(counter, n)
        p = claim(counter, P, LANES, from_the_end)


@inline
def _ask_for_layer(token, w, u, p, k, D):
    """Have layer k of set p, which may not exist, on its way to the cache.

    Sets worked on next to each other are too many rows in memory for the processor to see that
    each of them goes on.
    """
    prefetch(row(w[0], token, p * w[1] + k * D), D)
    prefetch(row(u[0], token, p * u[1] + k * D), D)


@exact
def inverse(*arguments):
    """z, -Σ ladj_k and, if ``save``, what the adjoint needs, from z_K; as in :func:`forward`."""
    D = arguments[11]
    _inverse(np.zeros(ROWS * LANES), _scratch(LANES, D), *arguments)


@exact
def _inverse(
    q,
    points,
    token,
    z_K,
    w,
    u,
    b,
    z,
    ladj,
    kept,
    exact_end,
    P,
    K,
    D,
    shift,
    tiny,
    save,
    counter,
    from_the_end,
):
    at, width = points.ctypes.data, points.shape[1]
    p = claim(counter, P, LANES, from_the_end)
    step = -LANES if from_the_end else LANES
    while p < P:
        n = min(LANES, P - p)
        _load(points, token, z_K, p, n, D)
        q[LADJ : LADJ + LANES] = 0.0
        for k in range(K - 1, -1, -1):
            for i in range(n):
                w_k = row(w[0], token, (p + i) * w[1] + k * D)
                u_k = row(u[0], token, (p + i) * u[1] + k * D)
                _ask_for_layer(token, w, u, p + i + step, k, D)
                q[WU + i], q[WW + i], wz = dots(w_k, u_k, row(at, 1.0, i * width), D)
                q[B + i] = carray(row(b[0], token, (p + i) * b[1]), (K,))[k]
                q[A + i] = wz + q[B + i]
            lanes_inverse(q, shift, tiny)
            for i in range(n):
                w_k = row(w[0], token, (p + i) * w[1] + k * D)
                u_k = row(u[0], token, (p + i) * u[1] + k * D)
                move(row(at, 1.0, i * width), w_k, u_k, D, -q[T + i], -q[RT + i])
                by_ww = 0.0 if q[WW + i] < tiny else 1.0 / q[WW + i]
                settle(row(at, 1.0, i * width), w_k, u_k, D, q[A + i], q[B + i], by_ww)
            if save:
                lanes_adjoint(q, tiny)
                _keep(q, kept, p, k, K, _INVERSE)
        _store(points, q, token, z, ladj, exact_end, p, n, D, save)
        done(counter, n)
        p = claim(counter, P, LANES, from_the_end)


@exact
def _keep(q, kept, p, k, K, rows):
    numbers = carray(row(kept, 1.0, (p * K + k * LANES) * rows), (rows * LANES,))
    for i in range(rows * LANES):
        numbers[i] = q[i]


@exact
def _scratch(n, D):
    """n points, each on lines of the cache of its own, and filled up with zeros."""
    width = (D + WIDTH - 1) // WIDTH * WIDTH
    return _from_a_line_on(np.zeros(n * width + WIDTH), n * width).reshape(n, width)


@exact
def _from_a_line_on(memory, n):
    first = -(memory.ctypes.data // 8) % WIDTH
    return memory[first : first + n]


@exact
def _load(points, token, source, p, n, D):
    for i in range(n):
        values = carray(row(source[0], token, (p + i) * source[1]), (D,))
        for d in range(D):
            points[i, d] = values[d]
        # Another point's NaN may stand here.
        points[i, D:] = 0.0


@exact
def _store_points(points, token, target, p, n, D):
    for i in range(n):
        values = carray(row(target, token, (p + i) * D), (D,))
        for d in range(D):
            values[d] = points[i, d]


@exact
def _store(points, q, token, target, ladj, exact_end, p, n, D, save):
    _store_points(points, token, target, p, n, D)
    if save:
        _store_points(points, 1.0, exact_end, p, n, D)
    for i in range(n):
        carray(row(ladj, token, p + i), (1,))[0] = q[LADJ + i]


# What move_adjoint needs to know of a layer, one after the other.
_T_K, _R_K, _A_BAR, _WU_BAR, _WW_BAR2 = range(5)


@exact
def backward(*arguments):
    """The adjoint: gradients of z, w, u and b from those of z_K and Σ ladj_k.

    z_{k-1} is recomputed from z_k = z_{k-1} + û_k tanh a_k, so all that was kept is ``KEPT``
    numbers a layer, beside ``z_K`` in float64: the rounding of the result would spread
    with it. If ``around``, gradients of w and u are written around the cache.
    """
    D = arguments[13]
    _backward(
        np.zeros((_SIDE_BY_SIDE, 5)),
        _scratch(_SIDE_BY_SIDE, D),
        _scratch(_SIDE_BY_SIDE, D),
        *arguments,
    )


@exact
def _backward(
    q,
    points,
    g,
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
    around,
    counter,
    from_the_end,
):
    at, g_at, width = points.ctypes.data, g.ctypes.data, points.shape[1]
    p = claim(counter, P, _SIDE_BY_SIDE, from_the_end)
    step = _SIDE_BY_SIDE if from_the_end else -_SIDE_BY_SIDE
    while p < P:
        n = min(_SIDE_BY_SIDE, P - p)
        _load(points, 1.0, (z_K, D), p, n, D)
        _load(g, token, (z_K_bar, D), p, n, D)
        for k in range(K - 1, -1, -1):
            for i in range(n):
                w_k = row(w[0], token, (p + i) * w[1] + k * D)
                u_k = row(u[0], token, (p + i) * u[1] + k * D)
                l_bar = np.float64(carray(row(ladj_bar, token, p + i), (1,))[0])
                m = _kept(kept, p + i, k, K, _FORWARD)
                _ask_for_layer(token, w, u, p + i + step, k, D)
                wg, ug = dots_of_gradient(w_k, u_k, row(g_at, 1.0, i * width), D)
                a_bar = m[H] * (ug + m[R] * wg) + l_bar * m[KAPPA]
                r_bar = m[T] * wg
                q[i, _T_K], q[i, _R_K], q[i, _A_BAR] = m[T], m[R], a_bar
                q[i, _WU_BAR] = r_bar * m[BY_WU] + l_bar * m[SLOPE]
                q[i, _WW_BAR2] = r_bar * m[BY_WW]
                carray(row(b_bar, token, (p + i) * K), (K,))[k] = a_bar
            for i in range(n):
                w_k = row(w[0], token, (p + i) * w[1] + k * D)
                u_k = row(u[0], token, (p + i) * u[1] + k * D)
                dw = row(w_bar, token, ((p + i) * K + k) * D)
                du = row(u_bar, token, ((p + i) * K + k) * D)
                z_i, g_i = row(at, 1.0, i * width), row(g_at, 1.0, i * width)
                move_adjoint(z_i, g_i, w_k, u_k, dw, du, D, q[i], around)
        _store_points(g, token, z_bar, p, n, D)
        done(counter, n)
        p = claim(counter, P, _SIDE_BY_SIDE, from_the_end)


@exact
def inverse_backward(*arguments):
    """The inverse's adjoint by the implicit function theorem, from z forwards.

    -ā = β = (h ûᵀz̄ + λ̄ κ) / (1 + h c) is Sherman and Morrison's z̄_k = J⁻ᵀ (z̄_{k-1} - λ̄ κ w).
    """
    D = arguments[13]
    _inverse_backward(
        np.zeros((_SIDE_BY_SIDE, 5)),
        _scratch(_SIDE_BY_SIDE, D),
        _scratch(_SIDE_BY_SIDE, D),
        *arguments,
    )


@exact
def _inverse_backward(
    q,
    points,
    g,
    token,
    z,
    w,
    u,
    kept,
    z_bar,
    ladj_bar,
    z_K_bar,
    w_bar,
    u_bar,
    b_bar,
    P,
    K,
    D,
    around,
    counter,
    from_the_end,
):
    at, g_at, width = points.ctypes.data, g.ctypes.data, points.shape[1]
    p = claim(counter, P, _SIDE_BY_SIDE, from_the_end)
    step = _SIDE_BY_SIDE if from_the_end else -_SIDE_BY_SIDE
    while p < P:
        n = min(_SIDE_BY_SIDE, P - p)
        _load(points, 1.0, (z, D), p, n, D)
        _load(g, token, (z_bar, D), p, n, D)
        for k in range(K):
            for i in range(n):
                w_k = row(w[0], token, (p + i) * w[1] + k * D)
                u_k = row(u[0], token, (p + i) * u[1] + k * D)
                l_bar = np.float64(carray(row(ladj_bar, token, p + i), (1,))[0])
                m = _kept(kept, p + i, k, K, _INVERSE)
                _ask_for_layer(token, w, u, p + i + step, k, D)
                wg, ug = dots_of_gradient(w_k, u_k, row(g_at, 1.0, i * width), D)
                a_bar = -(m[H] * (ug + m[R] * wg) + l_bar * m[KAPPA]) / m[DET]
                r_bar = -m[T] * (wg + a_bar * m[WW])
                q[i, _T_K], q[i, _R_K], q[i, _A_BAR] = m[T], m[R], a_bar
                q[i, _WU_BAR] = r_bar * m[BY_WU] - l_bar * m[SLOPE]
                q[i, _WW_BAR2] = r_bar * m[BY_WW]
                carray(row(b_bar, token, (p + i) * K), (K,))[k] = a_bar
            for i in range(n):
                w_k = row(w[0], token, (p + i) * w[1] + k * D)
                u_k = row(u[0], token, (p + i) * u[1] + k * D)
                dw = row(w_bar, token, ((p + i) * K + k) * D)
                du = row(u_bar, token, ((p + i) * K + k) * D)
                z_i, g_i = row(at, 1.0, i * width), row(g_at, 1.0, i * width)
                move_inverse_adjoint(z_i, g_i, w_k, u_k, dw, du, D, q[i], around)
        _store_points(g, token, z_K_bar, p, n, D)
        done(counter, n)
        p = claim(counter, P, _SIDE_BY_SIDE, from_the_end)


@exact
def _kept(kept, p, k, K, rows):
    """Where the numbers of layer k of set p are: the j-th at j LANES."""
    block = p // LANES
    start = ((block * K + k) * rows - block) * LANES + p
    return carray(row(kept, 1.0, start), (rows * LANES,))

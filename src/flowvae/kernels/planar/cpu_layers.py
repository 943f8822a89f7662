"""One layer for one point, in vector code along d: what cpu.py is made of.

w, u and their gradients are pointers to float32 or float64; z and z̄ are rows of scratch, float64
and filled up with zeros to a whole number of vectors.
"""

from __future__ import annotations

from flowvae.kernels.compile import exact, inline
from flowvae.kernels.planar.cpu_scalars import ROUNDING
from flowvae.kernels.vectors import (
    WIDTH,
    load,
    multiply_add,
    spread,
    store,
    store_around,
    times,
    total,
    zeros,
)

__all__ = ["dots", "dots_of_gradient", "move", "move_adjoint", "move_inverse_adjoint", "settle"]

# Each step is written once, for the loop and for what is left over.


@inline
def _dots_step(w, u, z, d, n, wu, ww, wz):
    x = load(w, d, n, "parameters")
    wu = multiply_add(x, load(u, d, n, "parameters"), wu)
    return wu, multiply_add(x, x, ww), multiply_add(x, load(z, d, WIDTH, "z"), wz)


@exact
def dots(w, u, z, D):
    """wᵀu, wᵀw and wᵀz."""
    wu, ww, wz = zeros(), zeros(), zeros()
    for d in range(0, D - WIDTH + 1, WIDTH):
        wu, ww, wz = _dots_step(w, u, z, d, WIDTH, wu, ww, wz)
    if D % WIDTH:
        wu, ww, wz = _dots_step(w, u, z, D - D % WIDTH, D % WIDTH, wu, ww, wz)
    return total(wu), total(ww), total(wz)


@inline
def _dots_of_gradient_step(w, u, g, d, n, wg, ug):
    x = load(g, d, WIDTH, "z_bar")
    wg = multiply_add(load(w, d, n, "parameters"), x, wg)
    return wg, multiply_add(load(u, d, n, "parameters"), x, ug)


@exact
def dots_of_gradient(w, u, g, D):
    """wᵀg and uᵀg."""
    wg, ug = zeros(), zeros()
    for d in range(0, D - WIDTH + 1, WIDTH):
        wg, ug = _dots_of_gradient_step(w, u, g, d, WIDTH, wg, ug)
    if D % WIDTH:
        wg, ug = _dots_of_gradient_step(w, u, g, D - D % WIDTH, D % WIDTH, wg, ug)
    return total(wg), total(ug)


@inline
def _move_step(z, w, u, d, n, t, rt):
    moved = multiply_add(load(u, d, n, "parameters"), t, load(z, d, WIDTH, "z"))
    store(z, d, WIDTH, multiply_add(load(w, d, n, "parameters"), rt, moved), "z")


@exact
def move(z, w, u, D, t, rt):
    """z += t û, û = u + r w."""
    t, rt = spread(t), spread(rt)
    for d in range(0, D - WIDTH + 1, WIDTH):
        _move_step(z, w, u, d, WIDTH, t, rt)
    if D % WIDTH:
        _move_step(z, w, u, D - D % WIDTH, D % WIDTH, t, rt)


@exact
def settle(z, w, u, D, a, b, by_ww):
    """Move z along w to where wᵀz + b is a.

    z_k - û tanh a cancels where û is large, and the map would magnify that error again. Where the
    difference is the rounding of a and b, 1/‖w‖ would magnify that.
    """
    _, _, found = dots(w, u, z, D)
    rest = a - b - found
    if abs(rest) > ROUNDING * (abs(a) + abs(b)):
        move(z, w, u, D, 0.0, rest * by_ww)


@inline
def _adjoint_step(z, g, w, u, d, n, t, r, a_bar, wu_bar, ww_bar2):
    x, y, v = load(w, d, n, "parameters"), load(u, d, n, "parameters"), load(g, d, WIDTH, "z_bar")
    minus_t, tv = times(t, spread(-1.0)), times(t, v)
    point = multiply_add(minus_t, multiply_add(r, x, y), load(z, d, WIDTH, "z"))
    store(z, d, WIDTH, point, "z")
    store(g, d, WIDTH, multiply_add(a_bar, x, v), "z_bar")
    dw = multiply_add(r, tv, multiply_add(wu_bar, y, times(ww_bar2, x)))
    return multiply_add(a_bar, point, dw), multiply_add(wu_bar, x, tv)


@inline
def _inverse_adjoint_step(z, g, w, u, d, n, t, r, a_bar, wu_bar, ww_bar2):
    x, y, point = load(w, d, n, "parameters"), load(u, d, n, "parameters"), load(z, d, WIDTH, "z")
    v = multiply_add(a_bar, x, load(g, d, WIDTH, "z_bar"))
    minus_tv = times(times(t, spread(-1.0)), v)
    store(g, d, WIDTH, v, "z_bar")
    store(z, d, WIDTH, multiply_add(t, multiply_add(r, x, y), point), "z")
    dw = multiply_add(r, minus_tv, multiply_add(wu_bar, y, times(ww_bar2, x)))
    return multiply_add(a_bar, point, dw), multiply_add(wu_bar, x, minus_tv)


@inline
def _write_step(dw, du, d, n, of_w, of_u, around):
    if around:
        store_around(dw, d, of_w, "w_bar")
        store_around(du, d, of_u, "u_bar")
    else:
        store(dw, d, n, of_w, "w_bar")
        store(du, d, n, of_u, "u_bar")


@exact
def move_adjoint(z, g, w, u, dw, du, D, numbers, around):
    """One layer of the adjoint for one point: z_k, z̄_k -> z_{k-1}, z̄_{k-1}, with w̄_k and ū_k.

    ``numbers`` are t, r, ā, wu_bar and 2 ww_bar. If ``around``, D is a number of whole vectors.
    """
    t, r, a_bar = spread(numbers[0]), spread(numbers[1]), spread(numbers[2])
    wu_bar, ww_bar2 = spread(numbers[3]), spread(numbers[4])
    for d in range(0, D - WIDTH + 1, WIDTH):
        of_w, of_u = _adjoint_step(z, g, w, u, d, WIDTH, t, r, a_bar, wu_bar, ww_bar2)
        _write_step(dw, du, d, WIDTH, of_w, of_u, around)
    if D % WIDTH:
        d, n = D - D % WIDTH, D % WIDTH
        of_w, of_u = _adjoint_step(z, g, w, u, d, n, t, r, a_bar, wu_bar, ww_bar2)
        _write_step(dw, du, d, n, of_w, of_u, False)


@exact
def move_inverse_adjoint(z, g, w, u, dw, du, D, numbers, around):
    """One layer of the inverse's adjoint: z_{k-1}, z̄_{k-1} -> z_k, z̄_k, with w̄_k and ū_k.

    ``numbers`` and ``around`` as in :func:`move_adjoint`.
    """
    t, r, a_bar = spread(numbers[0]), spread(numbers[1]), spread(numbers[2])
    wu_bar, ww_bar2 = spread(numbers[3]), spread(numbers[4])
    for d in range(0, D - WIDTH + 1, WIDTH):
        of_w, of_u = _inverse_adjoint_step(z, g, w, u, d, WIDTH, t, r, a_bar, wu_bar, ww_bar2)
        _write_step(dw, du, d, WIDTH, of_w, of_u, around)
    if D % WIDTH:
        d, n = D - D % WIDTH, D % WIDTH
        of_w, of_u = _inverse_adjoint_step(z, g, w, u, d, n, t, r, a_bar, wu_bar, ww_bar2)
        _write_step(dw, du, d, n, of_w, of_u, False)

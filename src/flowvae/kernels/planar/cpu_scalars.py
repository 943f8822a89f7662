"""One layer of the planar flow from its numbers: the constraint, the log-determinant, the inverse.

Branch-free and without cancellation, written into their callers; letters are those of cpu.py.
"""

from __future__ import annotations

import math

import numpy as np

from flowvae.kernels.compile import exact, inline
from flowvae.kernels.math import exp_parts, log, select, tanh_and_slope
from flowvae.kernels.planar import ROUNDINGS

__all__ = ["ROUNDING", "constrained", "log_abs_det", "log_det_slopes", "solve"]

ROUNDING = ROUNDINGS * 2.0**-52  # in float64
_ZERO_OF_M = math.log(math.e - 1)  # ln(e - 1), where softplus is 1
_SLOPE_OF_M = 1 - 1 / math.e  # softplus'(ln(e - 1))


@inline
def constrained(wu, ww, shift, tiny):
    """Of one layer, from wᵀu and wᵀw: r with û = u + r w, m = wᵀû, s = 1 + m, σ = ∂m/∂(wᵀu).

    m(d) = log1p((1 - 1/e) expm1 d), d = wᵀu - shift, near its zero; v + log1p(e^-v) - 1,
    v = d + ln(e - 1), beyond; s = e^v (1 - e^v/2 + e^2v/3) far on the left.
    """
    d = wu - shift
    v = d + _ZERO_OF_M
    left = d < 1.0
    scale, p = exp_parts(select(left, d, -v))
    e = scale * p + scale
    y = select(left, _SLOPE_OF_M * (scale * p + (scale - 1.0)), e)
    one_more = 1.0 + y
    log1p = log(one_more, y - (one_more - 1.0))
    m = select(left, log1p, v + log1p - 1.0)
    e_v = (math.e - 1) * e
    s = select(d < -12.0, e_v * (1.0 - e_v * (0.5 - e_v * (1 / 3))), 1.0 + m)
    sigma = select(left, (1.0 - 1.0 / math.e) * e, 1.0) / one_more
    zero = ww < tiny  # w = 0: no direction to correct u along, so û = u and wᵀû = wᵀu = 0
    r = select(zero, 0.0, (m - wu) / select(zero, 1.0, ww))
    return r, select(zero, 0.0, m), select(zero, 1.0, s), select(zero, 1.0, sigma)


@inline
def _det(t, h, m, s):
    """1 + h m = t² + h s, by whichever form does not cancel."""
    return select(h * m > -0.5, 1.0 + h * m, t * t + h * s)


@inline
def _not_zero(x):
    # max(x, 1e-300), but NaN stays NaN
    return select(x < 1e-300, 1e-300, x)


@inline
def log_abs_det(t, h, m, s, d):
    """ladj = log(1 + h m); d is wᵀu less the constraint's shift."""
    y = h * m
    near = y > -0.5
    det = _not_zero(select(near, 1.0 + y, t * t + h * s))
    ladj = log(det, select(near, y - (det - 1.0), 0.0))
    # t and s both underflow: log s is its asymptote.
    return select(det < 1e-290, select(abs(t) < 1e-150, d + _ZERO_OF_M, ladj), ladj)


@inline
def log_det_slopes(t, h, m, s, sigma):
    """∂ladj/∂a = -2 t h m / (1 + h m), ∂ladj/∂(wᵀu) = h σ / (1 + h m), and 1 + h m itself."""
    det = _not_zero(_det(t, h, m, s))
    by_det = 1.0 / det
    slope = h * sigma * by_det
    slope = select(det < 1e-290, select(abs(t) < 1e-150, 1.0, slope), slope)
    return -2.0 * t * h * m * by_det, slope, det


@exact
def solve(q, tau, m, s, lanes):
    """Replace tau by the root a of a + m tanh a = tau, m = s - 1 > -1, lane by lane.

    ``tau``, ``m`` and ``s`` are where in the scratch array q their lanes begin. The left side is
    increasing and odd, so take tau ≥ 0; for a ≥ 0 it is convex if m < 0 and concave if m > 0.
    Newton's iteration from a point above the root (m < 0) or below it (m > 0) cannot leave that
    side, so it needs no bracket:

        m < 0:  a ≤ tau + |m|,  a ≤ tau / s,  and a ≤ (5 tau / |m|)^(1/3) where that is below 1
        m > 0:  a ≥ tau - m,    a ≥ tau / (1 + m)
    """
    root = np.empty(lanes)
    for i in range(lanes):
        x = abs(q[tau + i])
        c = abs(q[m + i])
        scale, p = exp_parts(log(min(max(5.0 * x / max(c, 1e-300), 1e-300), 1.0), 0.0) * (1 / 3))
        cube_root = select(5.0 * x < c, scale * p + scale, x + c)
        above = min(x + c, x / max(q[s + i], 1e-300), cube_root)
        root[i] = select(q[m + i] < 0.0, above, max(x - c, x / (1.0 + c)))
    for _ in range(100):
        moved = 0.0
        for i in range(lanes):
            a = root[i]
            t, h = tanh_and_slope(a)
            step = (a + q[m + i] * t - abs(q[tau + i])) / max(
                _det(t, h, q[m + i], q[s + i]), 1e-300
            )
            root[i] = max(a - step, 0.0)
            moved = max(moved, abs(step) - 4e-16 * a)
        if moved <= 0.0:
            break
    for i in range(lanes):
        q[tau + i] = select(q[tau + i] < 0.0, -root[i], root[i])

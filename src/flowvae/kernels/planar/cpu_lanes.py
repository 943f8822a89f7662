"""One layer's numbers for ``LANES`` parameter sets at a time: vector code over the lanes."""

from __future__ import annotations

from flowvae.kernels.compile import exact
from flowvae.kernels.math import select, tanh_and_slope
from flowvae.kernels.planar.cpu_scalars import constrained, log_abs_det, log_det_slopes, solve

LANES = 8
# One number per lane, all in one scratch array so that LLVM knows them not to overlap. The first
# ones are what the adjoints need of a layer and does not depend on gradients, in the order of
# ``kept``: t, r, h, κ = ∂ladj/∂a, ∂ladj/∂(wᵀu), the factors of r̄ in the gradients of wᵀu and wᵀw,
# 1 + h m, wᵀw.
ROWS = 17
T, R, H, KAPPA, SLOPE, BY_WU, BY_WW, DET, WW, WU, A, RT, LADJ, M, S, SIGMA, B = (
    LANES * row for row in range(ROWS)
)


@exact
def lanes_forward(q, shift, tiny):
    # Short loops: the processor works on the next lanes while it waits for these.
    for i in range(LANES):
        r, m, s, q[SIGMA + i] = constrained(q[WU + i], q[WW + i], shift, tiny)
        q[R + i], q[M + i], q[S + i] = r, m, s
    for i in range(LANES):
        t, h = tanh_and_slope(q[A + i])
        q[T + i], q[H + i], q[RT + i] = t, h, q[R + i] * t
    for i in range(LANES):
        q[LADJ + i] += log_abs_det(q[T + i], q[H + i], q[M + i], q[S + i], q[WU + i] - shift)


@exact
def lanes_inverse(q, shift, tiny):
    for i in range(LANES):
        q[R + i], q[M + i], q[S + i], q[SIGMA + i] = constrained(q[WU + i], q[WW + i], shift, tiny)
    solve(q, A, M, S, LANES)
    for i in range(LANES):
        q[T + i], q[H + i] = tanh_and_slope(q[A + i])
        q[RT + i] = q[R + i] * q[T + i]
        q[LADJ + i] -= log_abs_det(q[T + i], q[H + i], q[M + i], q[S + i], q[WU + i] - shift)


@exact
def lanes_adjoint(q, tiny):
    """κ = ∂ladj/∂a, ∂ladj/∂(wᵀu), 1 + h m, and the factors of r̄ in the gradients of wᵀu and wᵀw."""
    for i in range(LANES):
        ww = q[WW + i]
        by_ww = select(ww < tiny, 0.0, 1.0 / select(ww < tiny, 1.0, ww))
        q[BY_WU + i] = (q[SIGMA + i] - 1.0) * by_ww
        q[BY_WW + i] = -2.0 * q[R + i] * by_ww
        q[KAPPA + i], q[SLOPE + i], q[DET + i] = log_det_slopes(
            q[T + i], q[H + i], q[M + i], q[S + i], q[SIGMA + i]
        )

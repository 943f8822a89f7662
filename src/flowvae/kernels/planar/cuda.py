"""The planar flow on a GPU, in Triton: each direction in one launch.

Letters are those of docs/model.md; the mathematics is cpu_scalars.py's. There are P parameter sets,
each (K, D), and S points for each, (S, P, D). Arithmetic is float64 whatever the tensors hold: a
rounding of a_k in float32 would be multiplied by every later layer.

A program works on a tile (ROWS, WIDTH) of points, WIDTH ≥ D, and loops over the layers. If
S = 1 its rows are sets with their own parameters, (ROWS, WIDTH); else they are samples of one
set, and what belongs to the set is (1, WIDTH) or (1,) and broadcasts.

``kept`` is a_k as (K, P, S), then the exact end (S, P, D), float64. Annotations are no strings
here: Triton's interpreter would not recognise ``tl.constexpr``.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["backward", "forward"]

_ZERO_OF_M = tl.constexpr(math.log(math.e - 1))  # ln(e - 1), where softplus is 1
_SLOPE_OF_M = tl.constexpr(1 - 1 / math.e)  # softplus'(ln(e - 1))
_E_LESS_ONE = tl.constexpr(math.e - 1)
_LOG2_E = tl.constexpr(1.4426950408889634)
_LN2_HIGH = tl.constexpr(6.93147180369123816490e-01)
_LN2_LOW = tl.constexpr(1.90821492927058770002e-10)
_ROUND = tl.constexpr(6755399441055744.0)  # 1.5 · 2^52: adding it rounds to a whole number

# A tile has at most _PER_WARP values a warp, so that the adjoint's four fit the registers.
_PER_WARP, _MOST_WARPS = 256, 16
_ENOUGH = 528  # programs that give every scheduler of 132 multiprocessors a warp


@triton.jit
def _exp_parts(x):
    """2^n and p with e^x = 2^n (1 + p), so that e^x - 1 = 2^n p + (2^n - 1) cancels nowhere."""
    x = tl.where(x < -708.0, -708.0, x)  # where, not maximum: NaN must pass
    x = tl.where(x > 709.0, 709.0, x)
    shifted = x * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    # Taylor's series of e^r - 1, |r| ≤ ½ ln 2, to r^13 / 13!
    p = r * 1.6059043836821613e-10 + 2.08767569878681e-09
    p = p * r + 2.505210838544172e-08
    p = p * r + 2.755731922398589e-07
    p = p * r + 2.7557319223985893e-06
    p = p * r + 2.48015873015873e-05
    p = p * r + 1.984126984126984e-04
    p = p * r + 1.3888888888888889e-03
    p = p * r + 8.333333333333333e-03
    p = p * r + 4.1666666666666664e-02
    p = p * r + 0.16666666666666666
    p = p * r + 0.5
    p = p * r * r + r
    scale = ((shifted.to(tl.int64, bitcast=True) + 1023) << 52).to(tl.float64, bitcast=True)
    return scale, p


@triton.jit
def _tanh_and_slope(a):
    """t = tanh a and h = sech² a = 1 - t², both without cancellation."""
    scale, p = _exp_parts(-2.0 * tl.abs(a))
    e = scale * p + scale
    q = 1.0 / (1.0 + e)
    t = -(scale * p + (scale - 1.0)) * q
    return tl.where(a < 0.0, -t, t), 4.0 * e * q * q


@triton.jit
def _constrained(wu, ww, SHIFT: tl.constexpr, TINY: tl.constexpr):
    """Of one layer, from wᵀu and wᵀw: r with û = u + r w, m = wᵀû, s = 1 + m, σ = ∂m/∂(wᵀu).

    m(d) = log1p((1 - 1/e) expm1 d), d = wᵀu - shift, near its zero; v + log1p(e^-v) - 1,
    v = d + ln(e - 1), beyond; s = e^v (1 - e^v/2 + e^2v/3) far on the left.
    """
    d = wu - SHIFT
    v = d + _ZERO_OF_M
    left = d < 1.0
    scale, p = _exp_parts(tl.where(left, d, -v))
    e = scale * p + scale
    y = tl.where(left, (scale * p + (scale - 1.0)) * _SLOPE_OF_M, e)
    one_more = 1.0 + y
    log1p = tl.log(one_more) + (y - (one_more - 1.0)) / one_more
    m = tl.where(left, log1p, v + log1p - 1.0)
    e_v = e * _E_LESS_ONE
    s = tl.where(d < -12.0, e_v * (1.0 - e_v * (0.5 - e_v * 0.3333333333333333)), 1.0 + m)
    sigma = tl.where(left, e_v, 1.0) / (1.0 + tl.where(left, e_v, e))
    zero = ww < TINY  # w = 0: no direction to correct u along, so û = u and wᵀû = wᵀu = 0
    r = tl.where(zero, 0.0, (m - wu) / tl.where(zero, 1.0, ww))
    return r, tl.where(zero, 0.0, m), tl.where(zero, 1.0, s), tl.where(zero, 1.0, sigma)


@triton.jit
def _det(t, h, m, s):
    """1 + h m = t² + h s, by whichever form does not cancel; positive."""
    det = tl.where(h * m > -0.5, 1.0 + h * m, t * t + h * s)
    return tl.where(det < 1e-300, 1e-300, det)


@triton.jit
def _log_abs_det(t, h, m, s, d):
    """ladj = log(1 + h m); d is wᵀu less the constraint's shift."""
    y = h * m
    det = _det(t, h, m, s)
    ladj = tl.log(det) + tl.where(y > -0.5, (y - (det - 1.0)) / det, 0.0)
    # t and s both underflow: log s is its asymptote.
    return tl.where((det < 1e-290) & (tl.abs(t) < 1e-150), d + _ZERO_OF_M, ladj)


@triton.jit
def _log_det_slopes(t, h, m, s, sigma):
    """κ = ∂ladj/∂a = -2 t h m / (1 + h m), ∂ladj/∂(wᵀu) = h σ / (1 + h m), and 1 + h m itself."""
    det = _det(t, h, m, s)
    slope = tl.where((det < 1e-290) & (tl.abs(t) < 1e-150), 1.0, h * sigma / det)
    return -2.0 * t * h * m / det, slope, det


@triton.jit
def _root(tau, m, s):
    """The root a of a + m tanh a = tau, m = s - 1 > -1, by Newton's iteration.

    For tau ≥ 0 it begins above the root if m < 0 and below it if m > 0, and stays on that side;
    why, and from which bounds: see ``solve`` in cpu_scalars.py.
    """
    x, c = tl.abs(tau), tl.abs(m)
    ratio = 5.0 * x / tl.where(c < 1e-300, 1e-300, c)
    within = tl.where(ratio < 1e-300, 1e-300, tl.where(ratio > 1.0, 1.0, ratio))
    scale, p = _exp_parts(tl.log(within) * 0.3333333333333333)
    above = tl.where(5.0 * x < c, scale * p + scale, x + c)
    above = tl.minimum(tl.minimum(x + c, x / tl.where(s < 1e-300, 1e-300, s)), above)
    a = tl.where(m < 0.0, above, tl.maximum(x - c, x / (1.0 + c)))
    left = 100
    while left > 0:
        t, h = _tanh_and_slope(a)
        step = (a + m * t - x) / _det(t, h, m, s)
        moved = tl.max((tl.abs(step) > a * 4e-16).to(tl.int32), 0)
        a = tl.where(a < step, 0.0, a - step)
        left = (left - 1) * moved
    return tl.where(tau < 0.0, -a, a)


@triton.jit
def _layer(
    w, u, w_stride, u_stride, sets, at, mask, SHIFT: tl.constexpr, TINY: tl.constexpr
):  # fmt: skip
    """Of one layer of these sets: w and u (sets, WIDTH) in float64, wᵀu, wᵀw, and r, m, s, σ."""
    w_k = tl.load(w + sets[:, None] * w_stride + at, mask=mask, other=0.0).to(tl.float64)
    u_k = tl.load(u + sets[:, None] * u_stride + at, mask=mask, other=0.0).to(tl.float64)
    wu, ww = tl.sum(w_k * u_k, 1), tl.sum(w_k * w_k, 1)
    r, m, s, sigma = _constrained(wu, ww, SHIFT, TINY)
    return w_k, u_k, wu, ww, r, m, s, sigma


@triton.jit(do_not_specialize=["S", "P", "K"])
def _map(
    z, w, u, b, end, ladj, kept, S, P, K, z_s, z_p, w_stride, u_stride, b_stride,
    D: tl.constexpr, SHIFT: tl.constexpr, TINY: tl.constexpr, INVERTED: tl.constexpr,
    SAVE: tl.constexpr, SHARED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """End and Σ ladj_k of the map, or of its inverse if INVERTED, and if SAVE what to keep.

    ``z`` has strides ``z_s`` from sample to sample and ``z_p`` from set to set; ``w``, ``u`` and
    ``b`` have theirs from set to set.
    """
    program = tl.program_id(0).to(tl.int64)
    if SHARED:
        blocks = (S + ROWS - 1) // ROWS
        sets = program // blocks + tl.arange(0, 1)
        samples = program % blocks * ROWS + tl.arange(0, ROWS)
    else:
        sets = program * ROWS + tl.arange(0, ROWS)
        samples = tl.arange(0, 1).to(tl.int64)
    columns = tl.arange(0, WIDTH)[None, :]
    known = sets < P
    valid = known & (samples < S)
    of_sets, of_points = known[:, None] & (columns < D), valid[:, None] & (columns < D)
    points = samples * P + sets
    start = z + (samples * z_s + sets * z_p)[:, None] + columns
    point = tl.load(start, mask=of_points, other=0.0).to(tl.float64)
    total = tl.zeros([ROWS], tl.float64)
    for j in range(K):
        k = j
        if INVERTED:
            k = K - 1 - j
        w_k, u_k, wu, _, r, m, s, _ = _layer(
            w, u, w_stride, u_stride, sets, k * D + columns, of_sets, SHIFT, TINY
        )
        b_k = tl.load(b + sets * b_stride + k, mask=known, other=0.0).to(tl.float64)
        a = tl.sum(w_k * point, 1) + b_k
        if INVERTED:
            a = _root(a, m, s)
        t, h = _tanh_and_slope(a)
        of_layer = _log_abs_det(t, h, m, s, wu - SHIFT)
        moved = (u_k + r[:, None] * w_k) * t[:, None]
        if INVERTED:
            point -= moved
            total -= of_layer
        else:
            point += moved
            total += of_layer
        if SAVE:
            tl.store(kept + (k * P + sets) * S + samples, a, mask=valid)
    tl.store(end + points[:, None] * D + columns, point, mask=of_points)
    tl.store(ladj + points, total, mask=valid)
    if SAVE:
        exact = kept + K * P.to(tl.int64) * S
        tl.store(exact + points[:, None] * D + columns, point, mask=of_points)


@triton.jit(do_not_specialize=["S", "P", "K"])
def _adjoint(
    w, u, kept, end_bar, ladj_bar, start_bar, w_bar, u_bar, b_bar, sums,
    S, P, K, w_stride, u_stride,
    D: tl.constexpr, SHIFT: tl.constexpr, TINY: tl.constexpr, INVERTED: tl.constexpr,
    SHARED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The adjoint of the map, or of its inverse if INVERTED: gradients of the start, w, u and b.

    z_{k-1} is recomputed from z_k = z_{k-1} + û_k tanh a_k, so a_k and the exact end are all that
    was kept. The inverse's adjoint starts from z, by the implicit function theorem:
    -ā = (h ûᵀz̄ + λ̄ κ) / (1 + h m). The gradients of layer k rest on four sums over samples,
    T = Σ ±t z̄_k, A = Σ ā z_{k-1}, Σ λ̄ ∂ladj/∂(wᵀu) and Σ ā. A program has all samples of its
    sets, so no other adds to them; where the samples are several blocks, ``sums``
    (P, K, 2 D + 2) carries the sums from one to the next.
    """
    program = tl.program_id(0).to(tl.int64)
    if SHARED:
        sets = program + tl.arange(0, 1)
        sample = tl.arange(0, ROWS).to(tl.int64)
    else:
        sets = program * ROWS + tl.arange(0, ROWS)
        sample = tl.arange(0, 1).to(tl.int64)
    columns = tl.arange(0, WIDTH)[None, :]
    known = sets < P
    of_sets = known[:, None] & (columns < D)
    exact = kept + K * P.to(tl.int64) * S
    blocks = 1
    if SHARED:
        blocks = (S + ROWS - 1) // ROWS
    for block in range(blocks):
        samples = block * ROWS + sample
        # Added to sets: a comparison of whole numbers alone is no mask for the interpreter.
        again, last = known & (sets * 0 + block > 0), known & (sets * 0 + block == blocks - 1)
        valid = known & (samples < S)
        of_points = valid[:, None] & (columns < D)
        points = samples * P + sets
        at = points[:, None] * D + columns
        point = tl.load(exact + at, mask=of_points, other=0.0)
        g = tl.load(end_bar + at, mask=of_points, other=0.0).to(tl.float64)
        l_bar = tl.load(ladj_bar + points, mask=valid, other=0.0).to(tl.float64)
        for j in range(K):
            k = j
            if not INVERTED:
                k = K - 1 - j
            w_k, u_k, _, ww, r, m, s, sigma = _layer(
                w, u, w_stride, u_stride, sets, k * D + columns, of_sets, SHIFT, TINY
            )
            u_hat = u_k + r[:, None] * w_k
            a = tl.load(kept + (k * P + sets) * S + samples, mask=valid, other=0.0)
            t, h = _tanh_and_slope(a)
            kappa, slope, det = _log_det_slopes(t, h, m, s, sigma)
            slope *= l_bar
            a_bar = h * tl.sum(u_hat * g, 1) + l_bar * kappa
            if INVERTED:
                a_bar = -a_bar / det
                slope = -slope
                g += a_bar[:, None] * w_k
                T, A = -t[:, None] * g, a_bar[:, None] * point
                point += u_hat * t[:, None]
            else:
                point -= u_hat * t[:, None]
                T, A = t[:, None] * g, a_bar[:, None] * point
                g += a_bar[:, None] * w_k
            layer = sets * K + k
            if SHARED:
                T, A = tl.sum(T, 0)[None, :], tl.sum(A, 0)[None, :]
                slope, a_bar = tl.sum(slope, 0)[None], tl.sum(a_bar, 0)[None]
                if blocks > 1:
                    row = sums + layer * (2 * D + 2)
                    rows, more = row[:, None] + columns, of_sets & again[:, None]
                    T += tl.load(rows, mask=more, other=0.0)
                    A += tl.load(rows + D, mask=more, other=0.0)
                    slope += tl.load(row + 2 * D, mask=again, other=0.0)
                    a_bar += tl.load(row + 2 * D + 1, mask=again, other=0.0)
                    tl.debug_barrier()  # no thread may write before all have read
                    tl.store(rows, T, mask=of_sets)
                    tl.store(rows + D, A, mask=of_sets)
                    tl.store(row + 2 * D, slope, mask=known)
                    tl.store(row + 2 * D + 1, a_bar, mask=known)
                    tl.debug_barrier()  # nor read in the next block before they are written
            by_ww = tl.where(ww < TINY, 0.0, 1.0 / tl.where(ww < TINY, 1.0, ww))
            r_bar = tl.sum(w_k * T, 1)
            wu_bar = (r_bar * (sigma - 1.0) * by_ww + slope)[:, None]
            ww_bar2 = (-2.0 * r_bar * r * by_ww)[:, None]
            out = layer[:, None] * D + columns
            tl.store(u_bar + out, T + wu_bar * w_k, mask=of_sets & last[:, None])
            w_grad = A + r[:, None] * T + wu_bar * u_k + ww_bar2 * w_k
            tl.store(w_bar + out, w_grad, mask=of_sets & last[:, None])
            tl.store(b_bar + layer, a_bar, mask=last)
        tl.store(start_bar + at, g, mask=of_points)


def _tile(S: int, P: int, D: int, whole: bool) -> tuple[int, int, int]:
    """ROWS, WIDTH and warps of a program; ``whole`` if one must have all samples of its sets."""
    width = triton.next_power_of_2(max(D, 1))
    if S == 1 or not whole:  # wide tiles only where there are points enough to fill the machine
        rows = min(triton.next_power_of_2(S), 128) if S > 1 else 32
        while rows > 1 and _ENOUGH * rows > P * S:
            rows //= 2
        most = max(rows // 32, min(width // _PER_WARP, _MOST_WARPS), 1)
    else:
        rows = triton.next_power_of_2(S)
        most = 4 if P >= _ENOUGH // 4 else _MOST_WARPS  # few sets: few programs, so large ones
    warps = min(max(rows * width // _PER_WARP, rows // 32, 1), most)
    return max(min(rows, _PER_WARP * warps // width, 32 * warps), 1), width, warps


def _rows(x: Tensor) -> Tensor:
    """x itself if each of its sets lies together in memory, else a copy."""
    inner = x.stride()[1:]
    return x if inner == ((x.shape[2], 1) if x.dim() == 3 else (1,)) else x.contiguous()


def forward(
    z: Tensor, w: Tensor, u: Tensor, b: Tensor, shift: float, save: bool, inverted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Points (S, P, D), or (P, D), through sets (P, K, D).

    The end, the log-determinant (S, P), or (P,), and what to keep.
    """
    if z.dim() == 2:
        end, ladj, kept = forward(z.unsqueeze(0), w, u, b, shift, save, inverted)
        return end.squeeze(0), ladj.squeeze(0), kept
    S, P, D = z.shape
    K = w.shape[1]
    w, u, b = _rows(w), _rows(u), _rows(b)
    if z.stride(2) != 1:
        z = z.contiguous()
    end, ladj = z.new_empty((S, P, D)), z.new_empty((S, P))
    kept = z.new_empty(S * P * (K + D) if save else 0, dtype=torch.float64)
    if S * P == 0:
        return end, ladj, kept
    rows, width, warps = _tile(S, P, D, whole=False)
    programs = triton.cdiv(P, rows) if S == 1 else P * triton.cdiv(S, rows)
    with torch.cuda.device_of(z):
        _map[(programs,)](
            *(z, w, u, b, end, ladj, kept, S, P, K),
            *(z.stride(0), z.stride(1), w.stride(0), u.stride(0), b.stride(0)),
            *(D, shift, torch.finfo(z.dtype).tiny, inverted, save, S > 1, rows, width),
            num_warps=warps,
            enable_fp_fusion=True,
        )
    return end, ladj, kept


def backward(
    w: Tensor,
    u: Tensor,
    b: Tensor,
    kept: Tensor,
    end_bar: Tensor,
    ladj_bar: Tensor,
    shift: float,
    inverted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the start, (S, P, D) or (P, D), of w, u and b from those of end and ladj."""
    if end_bar.dim() == 2:
        bars = end_bar.unsqueeze(0), ladj_bar.unsqueeze(0)
        start_bar, *others = backward(w, u, b, kept, *bars, shift, inverted)
        return start_bar.squeeze(0), *others
    S, P, D = end_bar.shape
    K = w.shape[1]
    w, u = _rows(w), _rows(u)
    end_bar, ladj_bar = end_bar.contiguous(), ladj_bar.contiguous()
    start_bar = torch.empty_like(end_bar)
    if S * P == 0:
        return start_bar, torch.zeros_like(w), torch.zeros_like(u), torch.zeros_like(b)
    w_bar, u_bar, b_bar = (w.new_empty(shape) for shape in ((P, K, D), (P, K, D), (P, K)))
    rows, width, warps = _tile(S, P, D, whole=True)
    programs = triton.cdiv(P, rows) if S == 1 else P
    sums = kept.new_empty((P, K, 2 * D + 2) if rows < S else 0)
    with torch.cuda.device_of(w):
        _adjoint[(programs,)](
            *(w, u, kept, end_bar, ladj_bar, start_bar, w_bar, u_bar, b_bar, sums),
            *(S, P, K, w.stride(0), u.stride(0)),
            *(D, shift, torch.finfo(end_bar.dtype).tiny, inverted, S > 1, rows, width),
            num_warps=warps,
            enable_fp_fusion=True,
        )
    return start_bar, w_bar, u_bar, b_bar

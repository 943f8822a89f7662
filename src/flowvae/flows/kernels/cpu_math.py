"""Elementary functions that LLVM turns into vector code, and the intrinsics they rest on.

numba calls the C library for exp, log and tanh, one number at a time; these are branch-free
polynomials instead, good to about 2 units in the last place of float64 (tests/test_kernels.py).
They are written into their callers (``inline="always"``), which therefore must not be compiled with
fastmath: reassociation would cancel the compensation terms.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = [
    "add_atomically",
    "bits_of_float",
    "claim",
    "constrained",
    "done",
    "float_of_bits",
    "log_abs_det",
    "log_det_slopes",
    "prefetch",
    "row",
    "select",
    "solve",
    "tanh_and_slope",
]

INLINE = {"error_model": "numpy", "nogil": True, "inline": "always"}

_ZERO_OF_M = math.log(math.e - 1)  # ln(e - 1), where softplus is 1
_SLOPE_OF_M = 1 - 1 / math.e  # softplus'(ln(e - 1))
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ROUND = 6755399441055744.0  # 1.5 · 2^52: adding it rounds to a whole number


@intrinsic
def float_of_bits(context, bits):
    """The float32 or float64 that an int32 or int64 stands for."""
    kind = types.float32 if bits == types.int32 else types.float64

    def build(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(kind))

    return kind(bits), build


@intrinsic
def bits_of_float(context, x):
    """Those of a float32 as int32, of a float64 as int64."""
    kind = types.int32 if x == types.float32 else types.int64

    def build(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(kind))

    return kind(x), build


@intrinsic
def select(context, condition, yes, no):
    """``yes if condition else no`` without a branch, of one type; both are evaluated."""

    def build(context, builder, signature, arguments):
        return builder.select(*arguments)

    return (yes(condition, yes, no), build) if yes == no else None


@intrinsic
def _fma(context, x, y, z):
    """x y + z, rounded once where the processor can."""

    def build(context, builder, signature, arguments):
        double = ir.DoubleType()
        kind = ir.FunctionType(double, [double] * 3)
        function = builder.module.declare_intrinsic("llvm.fmuladd", [double], kind)
        return builder.call(function, arguments)

    return types.float64(types.float64, types.float64, types.float64), build


@intrinsic
def row(context, address, token, offset):
    """A pointer to the offset-th value of ``token``'s type from an address, for carray."""
    signature = types.CPointer(token)(address, token, offset)

    def build(context, builder, signature, arguments):
        pointer = context.get_value_type(signature.return_type)
        start = builder.inttoptr(arguments[0], pointer)
        return builder.gep(start, [arguments[2]])

    return signature, build


@intrinsic
def add_atomically(context, address, amount):
    """Add to the int64 at an address, which other threads add to as well; what it was before."""

    def build(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, arguments[1], "acq_rel")

    return types.int64(types.int64, types.int64), build


@njit(**INLINE)
def claim(counter, tasks, n, from_the_end):
    """The first of n tasks that no other thread gets; ``tasks`` if none are left.

    The caller's thread takes from the front and helpers from the end; the way back begins where
    they met. So each core meets data that it has in its cache still. ``counter`` is of claims, of
    tasks done, of claims at the front and at the end; last, on the way back, how many threads
    there are, else 0.
    """
    address = counter.ctypes.data
    claims = (tasks + n - 1) // n
    if add_atomically(address, 1) >= claims:
        return tasks
    before = add_atomically(address + (24 if from_the_end else 16), 1)
    threads = counter[4]
    if threads == 0:
        return (claims - 1 - before if from_the_end else before) * n
    met = claims // threads
    at = met + before if from_the_end else met - 1 - before
    return at % claims * n


@njit(**INLINE)
def done(counter, n):
    """Say that n tasks are done."""
    add_atomically(counter.ctypes.data + 8, n)


@intrinsic
def _in_a_line(context, pointer):
    """How many numbers are in a line of the cache, of 64 bytes."""

    def build(context, builder, signature, arguments):
        return ir.IntType(64)(512 // pointer.dtype.bitwidth)

    return types.int64(pointer), build


@intrinsic
def _prefetch(context, pointer, i):
    def build(context, builder, signature, arguments):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        line = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), byte)
        # to be read, into all levels, as data
        builder.call(function, [line, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(pointer, i), build


@njit(**INLINE)
def prefetch(pointer, n):
    """Ask for the lines of n numbers, which need not exist, ahead of their use."""
    for i in range(0, n, _in_a_line(pointer)):
        _prefetch(pointer, i)


@njit(**INLINE)
def exp_parts(x):
    """2^n and p with e^x = 2^n (1 + p), so that e^x - 1 = 2^n p + (2^n - 1) cancels nowhere."""
    x = select(x < -708.0, -708.0, select(x > 709.0, 709.0, x))  # NaN stays NaN
    shifted = _fma(x, _LOG2_E, _ROUND)
    n = shifted - _ROUND
    r = _fma(n, -_LN2_LOW, _fma(n, -_LN2_HIGH, x))
    # Taylor's series of e^r - 1, |r| ≤ ½ ln 2, to r^13 / 13!, in parts that do not wait for each
    # other
    r2 = r * r
    r4 = r2 * r2
    low = _fma(_fma(r, 1 / 120, 1 / 24), r2, _fma(r, 1 / 6, 1 / 2))
    middle = _fma(_fma(r, 1 / 362880, 1 / 40320), r2, _fma(r, 1 / 5040, 1 / 720))
    high = _fma(_fma(r, 1 / 6227020800, 1 / 479001600), r2, _fma(r, 1 / 39916800, 1 / 3628800))
    p = _fma(_fma(_fma(high, r4, middle), r4, low), r2, r)
    scale = float_of_bits((bits_of_float(shifted) + 1023) << 52)
    return scale, p


@njit(**INLINE)
def log(x, rest):
    """ln(x + rest) for positive normal x and a rest below its rounding error.

    x + rest = 2^n (1 + f), ln(1 + f) = 2 artanh(f / (2 + f)).
    """
    bits = bits_of_float(x)
    n = (bits - 0x3FE6A09E667F3BCD) >> 52  # so that √½ ≤ 1 + f < √2
    f = _fma(rest, float_of_bits((1023 - n) << 52), float_of_bits(bits - (n << 52)) - 1.0)
    whole = float_of_bits(n + 0x4338000000000000) - _ROUND
    s = f / (2.0 + f)
    q = s * s
    q2 = q * q
    q4 = q2 * q2
    low = _fma(_fma(q, 1 / 9, 1 / 7), q2, _fma(q, 1 / 5, 1 / 3))
    high = _fma(_fma(q, 1 / 17, 1 / 15), q2, _fma(q, 1 / 13, 1 / 11))
    p = _fma(_fma(_fma(q, 1 / 21, 1 / 19), q4, high), q4, low)
    whole += 0.0 * x  # NaN, whose bits are taken for a number's above, stays NaN
    return _fma(whole, _LN2_HIGH, 2.0 * s + _fma(2.0 * s * q, p, whole * _LN2_LOW))


@njit(**INLINE)
def tanh_and_slope(a):
    """t = tanh a and h = sech² a = 1 - t², both without cancellation."""
    scale, p = exp_parts(-2.0 * abs(a))
    e = scale * p + scale
    q = 1.0 / (1.0 + e)
    t = -(scale * p + (scale - 1.0)) * q
    return select(a < 0.0, -t, t), 4.0 * e * q * q


@njit(**INLINE)
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


@njit(**INLINE)
def _det(t, h, m, s):
    """1 + h m = t² + h s, by whichever form does not cancel."""
    return select(h * m > -0.5, 1.0 + h * m, t * t + h * s)


@njit(**INLINE)
def _not_zero(x):
    # max(x, 1e-300), but NaN stays NaN
    return select(x < 1e-300, 1e-300, x)


@njit(**INLINE)
def log_abs_det(t, h, m, s, d):
    """ladj = log(1 + h m); d is wᵀu less the constraint's shift."""
    y = h * m
    near = y > -0.5
    det = _not_zero(select(near, 1.0 + y, t * t + h * s))
    ladj = log(det, select(near, y - (det - 1.0), 0.0))
    # t and s both underflow: log s is its asymptote.
    return select(det < 1e-290, select(abs(t) < 1e-150, d + _ZERO_OF_M, ladj), ladj)


@njit(**INLINE)
def log_det_slopes(t, h, m, s, sigma):
    """∂ladj/∂a = -2 t h m / (1 + h m), ∂ladj/∂(wᵀu) = h σ / (1 + h m), and 1 + h m itself."""
    det = _not_zero(_det(t, h, m, s))
    by_det = 1.0 / det
    slope = h * sigma * by_det
    slope = select(det < 1e-290, select(abs(t) < 1e-150, 1.0, slope), slope)
    return -2.0 * t * h * m * by_det, slope, det


@njit(error_model="numpy", nogil=True, cache=True)
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

"""Elementary functions that LLVM turns into vector code, and the intrinsics they rest on.

numba calls the C library for exp, log and tanh, one number at a time; these are branch-free
polynomials instead, good to about 2 units in the last place of float64. They are written into
their callers (``inline="always"``), which therefore must not be compiled with fastmath:
reassociation would cancel the compensation terms.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flowvae.kernels.compile import inline

__all__ = [
    "add_atomically",
    "bits_of_float",
    "claim",
    "done",
    "exp_parts",
    "float_of_bits",
    "log",
    "prefetch",
    "row",
    "select",
    "tanh_and_slope",
]

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


@inline
def claim(counter, tasks, n, from_the_end):
    """The first of n tasks that no other thread gets; ``tasks`` if none are left.

    The caller's thread takes from the front and helpers from the end; the backward pass begins
    where they met, so each core meets data that it still has in its cache. ``counter`` is of
    claims, of tasks done, of claims at the front and at the end; last, in the backward pass, how
    many threads there are, else 0.
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


@inline
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


@inline
def prefetch(pointer, n):
    """Ask for the lines of n numbers, which need not exist, ahead of their use."""
    for i in range(0, n, _in_a_line(pointer)):
        _prefetch(pointer, i)


@inline
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


@inline
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


@inline
def tanh_and_slope(a):
    """t = tanh a and h = sech² a = 1 - t², both without cancellation."""
    scale, p = exp_parts(-2.0 * abs(a))
    e = scale * p + scale
    q = 1.0 / (1.0 + e)
    t = -(scale * p + (scale - 1.0)) * q
    return select(a < 0.0, -t, t), 4.0 * e * q * q

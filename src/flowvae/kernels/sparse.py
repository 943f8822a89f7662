"""An affine layer that skips the zeros of its input, and the gradient of its weights, on a CPU.

    h = x W + c, or max(0, x W + c);    W̄ = xᵀ h̄,  c̄ = Σ_b h̄_b  (h̄ = 0 where the maximum was 0)

Of a picture such as a digit four fifths are zeros, and so are four fifths of the work of a product.
x is (B, P) and W (P, H), so that what one number of x is multiplied by lies together: a strip of
``STRIP`` columns is eight vectors, and the sums of a strip stay in registers. Work is cut so that
what is read again and again stays near in the cache: of W, ``_CHUNK`` rows of a strip; of h̄, a
strip. float32 throughout; the order of every sum is fixed by the shapes alone, whoever computes it.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from flowvae.flows.kernels.cpu_math import INLINE, claim, done, prefetch, row
from flowvae.flows.kernels.cpu_vectors import (
    WIDTH,
    add,
    load_singles,
    multiply_add,
    spread,
    store_singles,
    where_positive,
)
from flowvae.kernels.team import FIRST, counter, helps, wait, work

__all__ = ["STRIP", "backward", "forward", "room", "share"]

STRIP = 8 * WIDTH
_CHUNK = 200  # numbers of a datum; their weights of a strip are 50 KiB
_PIXELS = 104  # the same, of which a thread claims the weights' gradients

_ROWS_AHEAD = 4  # of which memory is asked for before it is written
_LINE = 16  # numbers in a line of the cache

_SINGLE, _WHOLE, _INDEX = np.float32(0), np.int64(0), np.int32(0)
_ZERO = np.float32(0)

# Row m: where the bits of m are set, in order.
_BITS = np.zeros((256, WIDTH), np.uint8)
for _m in range(256):
    _set = [i for i in range(WIDTH) if _m >> i & 1]
    _BITS[_m, : len(_set)] = _set


@intrinsic
def _nonzero(context, pointer, i):
    """A bit for each of the WIDTH numbers from ``pointer[i]`` on: is it not 0? NaN is not."""

    def build(context, builder, signature, arguments):
        values = ir.VectorType(ir.FloatType(), WIDTH)
        at = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), values.as_pointer())
        number = builder.load(at, align=4)
        bits = builder.fcmp_unordered("!=", number, ir.Constant(values, [0.0] * WIDTH))
        return builder.zext(builder.bitcast(bits, ir.IntType(WIDTH)), ir.IntType(64))

    return types.int64(pointer, types.int64), build


@intrinsic
def _append(context, out, n, base, bits, table):
    """Write base + i for each set bit i from ``out[n]`` on, and WIDTH numbers in all; the new n."""

    def build(context, builder, signature, arguments):
        byte, number, whole = ir.IntType(8), ir.IntType(32), ir.IntType(64)
        few, many = ir.VectorType(byte, WIDTH), ir.VectorType(number, WIDTH)
        out_, n_, base_, bits_, table_ = arguments
        line = builder.add(table_, builder.mul(bits_, whole(WIDTH)))
        places = builder.zext(builder.load(builder.inttoptr(line, few.as_pointer()), align=8), many)
        nothing = ir.Constant(many, ir.Undefined)
        first = builder.insert_element(nothing, builder.trunc(base_, number), number(0))
        start = builder.shuffle_vector(first, nothing, ir.Constant(many, [0] * WIDTH))
        at = builder.bitcast(builder.gep(out_, [n_]), many.as_pointer())
        builder.store(builder.add(places, start), at, align=4)
        kind = ir.FunctionType(whole, [whole])
        count = builder.module.declare_intrinsic("llvm.ctpop", [whole], kind)
        return builder.add(n_, builder.call(count, [bits_]))

    return types.int64(out, *[types.int64] * 4), build


@njit(**INLINE)
def _which(pointer, i, n):
    """``_nonzero`` of the first n ≤ WIDTH numbers."""
    if n >= WIDTH:
        return _nonzero(pointer, i)
    bits = 0
    numbers = carray(pointer, (i + n,))
    for k in range(n):
        if numbers[i + k] != _ZERO:
            bits |= 1 << k
    return bits


@njit(**INLINE)
def _transposed(bits):
    """Bit 8 r + c to bit 8 c + r."""
    t = (bits ^ (bits >> 7)) & 0x00AA00AA00AA00AA
    bits ^= t ^ (t << 7)
    t = (bits ^ (bits >> 14)) & 0x0000CCCC0000CCCC
    bits ^= t ^ (t << 14)
    t = (bits ^ (bits >> 28)) & 0x00000000F0F0F0F0
    return bits ^ t ^ (t << 28)


@njit(**INLINE)
def _load(pointer, i):
    return (
        load_singles(pointer, i),
        load_singles(pointer, i + 8),
        load_singles(pointer, i + 16),
        load_singles(pointer, i + 24),
        load_singles(pointer, i + 32),
        load_singles(pointer, i + 40),
        load_singles(pointer, i + 48),
        load_singles(pointer, i + 56),
    )


@njit(**INLINE)
def _store(pointer, i, a):
    store_singles(pointer, i, a[0])
    store_singles(pointer, i + 8, a[1])
    store_singles(pointer, i + 16, a[2])
    store_singles(pointer, i + 24, a[3])
    store_singles(pointer, i + 32, a[4])
    store_singles(pointer, i + 40, a[5])
    store_singles(pointer, i + 48, a[6])
    store_singles(pointer, i + 56, a[7])


@njit(**INLINE)
def _plus(a, x, pointer, i):
    """a + x times the strip from ``pointer[i]`` on."""
    x = spread(x)
    return (
        multiply_add(x, load_singles(pointer, i), a[0]),
        multiply_add(x, load_singles(pointer, i + 8), a[1]),
        multiply_add(x, load_singles(pointer, i + 16), a[2]),
        multiply_add(x, load_singles(pointer, i + 24), a[3]),
        multiply_add(x, load_singles(pointer, i + 32), a[4]),
        multiply_add(x, load_singles(pointer, i + 40), a[5]),
        multiply_add(x, load_singles(pointer, i + 48), a[6]),
        multiply_add(x, load_singles(pointer, i + 56), a[7]),
    )


@njit(**INLINE)
def _rectified(a):
    return (
        where_positive(a[0], a[0]),
        where_positive(a[1], a[1]),
        where_positive(a[2], a[2]),
        where_positive(a[3], a[3]),
        where_positive(a[4], a[4]),
        where_positive(a[5], a[5]),
        where_positive(a[6], a[6]),
        where_positive(a[7], a[7]),
    )


@njit(**INLINE)
def _strips(H):
    """How many; the last ends where the columns do, so it may overlap the one before."""
    return (H + STRIP - 1) // STRIP


def room(B: int, P: int, H: int) -> tuple[int, int, int]:
    """How many int32 both kernels need, how many more ``forward`` does; float32 of ``backward``."""
    chunks, blocks, strips = -(-P // _CHUNK), -(-P // _PIXELS), -(-H // STRIP)
    lists = max(chunks * (_CHUNK * B + WIDTH), blocks * _PIXELS * (B + WIDTH))
    lists = -(-lists // _LINE) * _LINE
    return lists, chunks * B, strips * B * STRIP


@njit(error_model="numpy", nogil=True, cache=True)
def share(x, B, P, step):
    """Of every ``step``-th row of x (B, P), the share of numbers that are not 0."""
    numbers = carray(row(x, _SINGLE, 0), (B, P))
    count, rows = 0, 0
    for b in range(0, B, step):
        rows += 1
        for p in range(P):
            count += numbers[b, p] != _ZERO
    return count / (rows * P)


@njit(**INLINE)
def _find(x, out, ends, B, P, chunk):
    """Where the numbers of a chunk are that are not 0, datum by datum, and where each ends."""
    numbers, bits = row(x, _SINGLE, 0), _BITS.ctypes.data
    ends = carray(row(ends, _INDEX, chunk * B), (B,))
    first, n = chunk * _CHUNK, 0
    last = min(P, first + _CHUNK)
    for b in range(B):
        for p in range(first, last, WIDTH):
            n = _append(out, n, p - first, _which(numbers, b * P + p, last - p), bits)
        ends[b] = np.int32(n)


@njit(**INLINE)
def _pack(w, out, H, first, last):
    """Some rows of a strip of W, put together so that no vector lies across two lines."""
    for p in range(first, last):
        _store(out, (p - first) * STRIP, _load(w, p * H))


@njit(error_model="numpy", nogil=True)
def _strip_of_h(x, w, c, h, B, P, H, rectify, lists, ends, packed, sums, at):
    weights = w
    w, c, h = row(w, _SINGLE, at), row(c, _SINGLE, at), row(h, _SINGLE, at)
    packed, sums = row(packed, _SINGLE, 0), row(sums, _SINGLE, 0)
    chunks = (P + _CHUNK - 1) // _CHUNK
    ahead = -(-_CHUNK // B)
    for chunk in range(chunks):
        start = chunk * _CHUNK
        _pack(w, packed, H, start, min(P, start + _CHUNK))
        places = carray(row(lists, _INDEX, chunk * (_CHUNK * B + WIDTH)), (_CHUNK * B,))
        until = carray(row(ends, _INDEX, chunk * B), (B,))
        first, coming = 0, start + _CHUNK
        for b in range(B):
            for p in range(coming + b * ahead, min(coming + (b + 1) * ahead, coming + _CHUNK, P)):
                prefetch(row(weights, _SINGLE, at + p * H), STRIP)
            a = _load(c, 0) if chunk == 0 else _load(sums, b * STRIP)
            datum = carray(row(x, _SINGLE, b * P + start), (_CHUNK,))
            for i in range(first, until[b]):
                p = np.int64(places[i])
                a = _plus(a, datum[p], packed, p * STRIP)
            first = until[b]
            if chunk < chunks - 1:
                _store(sums, b * STRIP, a)
            else:
                _store(h, b * H, _rectified(a) if rectify else a)


@njit(**INLINE)
def _strip_of_h_bar(h_bar, h, c_bar, out, B, H, rectify, at):
    """A strip of h̄, 0 where h was rectified, kept together; its sum over the data."""
    h_bar, h, c_bar = row(h_bar, _SINGLE, at), row(h, _SINGLE, at), row(c_bar, _SINGLE, at)
    for k in range(0, STRIP, WIDTH):
        total = spread(_ZERO)
        for b in range(B):
            value = load_singles(h_bar, b * H + k)
            if rectify:
                value = where_positive(load_singles(h, b * H + k), value)
            total = add(total, value)
            store_singles(out, b * STRIP + k, value)
        store_singles(c_bar, k, total)


@njit(**INLINE)
def _find_across(x, out, counts, values, B, P, first):
    """For each number of a block, in which data it is not 0, and what: eight by eight at a time."""
    numbers, bits = row(x, _SINGLE, 0), _BITS.ctypes.data
    counts[:] = 0
    last = min(P, first + _PIXELS)
    for p in range(first, last, WIDTH):
        n = last - p
        for b in range(0, B, WIDTH):
            square = 0
            for k in range(min(WIDTH, B - b)):
                square |= _which(numbers, (b + k) * P + p, n) << (8 * k)
            if square != 0:
                square = _transposed(square)
                for k in range(WIDTH):
                    i = p - first + k
                    at = i * (B + WIDTH) + counts[i]
                    counts[i] += _append(out, at, b, (square >> (8 * k)) & 255, bits) - at
    places, data = carray(out, (_PIXELS, B + WIDTH)), carray(numbers, (B * P,))
    for i in range(last - first):
        for k in range(counts[i]):
            values[i, k] = data[np.int64(places[i, k]) * P + first + i]


@njit(error_model="numpy", nogil=True)
def _rows_of_w_bar(w_bar, kept, lists, values, counts, B, P, H, first):
    to = w_bar
    w_bar = row(w_bar, _SINGLE, first * H)
    places = carray(lists, (_PIXELS, B + WIDTH))
    zero = spread(_ZERO)
    for strip in range(_strips(H)):
        strip_of_h_bar, at = row(kept, _SINGLE, strip * B * STRIP), min(strip * STRIP, H - STRIP)
        for i in range(min(_PIXELS, P - first)):
            a = (zero, zero, zero, zero, zero, zero, zero, zero)
            prefetch(row(to, _SINGLE, (first + i + _ROWS_AHEAD) * H + at), STRIP)
            for k in range(counts[i]):
                a = _plus(a, values[i, k], strip_of_h_bar, np.int64(places[i, k]) * STRIP)
            _store(w_bar, i * H + at, a)


@work
def forward(data):
    """h (B, H) of x (B, P), W (P, H) and c (H): all are addresses of contiguous memory."""
    x, w, c, h, B, P, H, rectify, lists, ends = carray(row(data, _WHOLE, FIRST), (10,))
    chunks = (P + _CHUNK - 1) // _CHUNK
    first, second, late = counter(data, 0), counter(data, 1), helps(data)
    chunk = claim(first, chunks, 1, late)
    while chunk < chunks:
        _find(x, row(lists, _INDEX, chunk * (_CHUNK * B + WIDTH)), ends, B, P, chunk)
        done(first, 1)
        chunk = claim(first, chunks, 1, late)
    wait(first, chunks)
    strips = _strips(H)
    memory = np.empty((_CHUNK + B) * STRIP + _LINE, np.float32)
    packed = (memory.ctypes.data + 63) // 64 * 64
    sums = packed + 4 * _CHUNK * STRIP
    strip = claim(second, strips, 1, late)
    while strip < strips:
        at = min(strip * STRIP, H - STRIP)
        _strip_of_h(x, w, c, h, B, P, H, rectify, lists, ends, packed, sums, at)
        strip = claim(second, strips, 1, late)


@work
def backward(data):
    """W̄ (P, H) and c̄ (H) of x (B, P), h̄ (B, H) and h, which is read if it was rectified."""
    arguments = carray(row(data, _WHOLE, FIRST), (11,))
    x, h_bar, h, w_bar, c_bar, B, P, H, rectify, lists, kept = arguments
    strips = _strips(H)
    first, second, late = counter(data, 0), counter(data, 1), helps(data)
    strip = claim(first, strips, 1, late)
    while strip < strips:
        at = min(strip * STRIP, H - STRIP)
        _strip_of_h_bar(h_bar, h, c_bar, row(kept, _SINGLE, strip * B * STRIP), B, H, rectify, at)
        done(first, 1)
        strip = claim(first, strips, 1, late)
    wait(first, strips)
    blocks = (P + _PIXELS - 1) // _PIXELS
    counts, values = np.empty(_PIXELS, np.int64), np.empty((_PIXELS, B), np.float32)
    block = claim(second, blocks, 1, late)
    while block < blocks:
        mine = row(lists, _INDEX, block * _PIXELS * (B + WIDTH))
        _find_across(x, mine, counts, values, B, P, block * _PIXELS)
        _rows_of_w_bar(w_bar, kept, mine, values, counts, B, P, H, block * _PIXELS)
        block = claim(second, blocks, 1, late)

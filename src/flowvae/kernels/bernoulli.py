"""The Bernoulli log-likelihood and its gradient on a CPU in one pass over the logits.

With e = exp(-|l|), in (0, 1]:

    log p(x) = Σ_i (x_i - [l_i > 0]) l_i - log Π_i (1 + e_i)
    ∂/∂l_i   = x_i - sigmoid(l_i),  sigmoid(l) = 1/(1 + e) where l > 0, e/(1 + e) elsewhere

A logarithm of a product in place of a sum of logarithms: each factor is at most 2, so one logarithm
serves many values. float32 throughout but for the last sums.
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray, njit

from flowvae.flows.kernels.cpu_math import bits_of_float, claim, float_of_bits, row, select
from flowvae.kernels.team import FIRST, counter, helps, work

__all__ = ["log_prob"]

LANES = 64
# Values a lane multiplies before its logarithm is taken: 2^12 at most, and 64 such fit a float64.
_FACTORS = 12
_ROWS = 8  # claimed together

_WHOLE = np.int64(0)
_ZERO, _ONE, _LOW = np.float32(0), np.float32(1), np.float32(-87)
_LOG2_E = np.float32(1.44269504)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUND = np.float32(12582912.0)  # 1.5 · 2^23: adding it rounds to a whole number
_MANTISSA, _BIAS = np.int32(23), np.int32(127)
# Taylor's series of e^r - 1 - r over r², |r| ≤ ½ ln 2
_E6, _E5, _E4, _E3, _E2 = (np.float32(1 / math.factorial(n)) for n in (6, 5, 4, 3, 2))

_EXACT = {"error_model": "numpy", "nogil": True}


@njit(**_EXACT, inline="always")
def _exp(x):
    """e^x for x ≤ 0, to about one unit in the last place; NaN stays NaN."""
    x = select(x < _LOW, _LOW, x)
    shifted = x * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = _E6
    p = p * r + _E5
    p = p * r + _E4
    p = p * r + _E3
    p = p * r + _E2
    p = p * r * r + r
    # numba adds int32 as int64
    scale = float_of_bits(np.int32((bits_of_float(shifted) + _BIAS) << _MANTISSA))
    return scale * p + scale


@njit(**_EXACT, fastmath={"contract"})
def _block(x, logits, slope, n, fit, product):
    x, logits, slope = carray(x, (n,)), carray(logits, (n,)), carray(slope, (n,))
    for i in range(n):
        l_i, x_i = logits[i], x[i]
        e = _exp(-abs(l_i))
        above = _ONE + e
        positive = l_i > _ZERO
        inverse = _ONE / above
        fit[i] += (x_i - select(positive, _ONE, _ZERO)) * l_i
        product[i] *= above
        slope[i] = x_i - select(positive, inverse, e * inverse)


@njit(**_EXACT)
def _rows(x, logits, slopes, out, B, P, first, last, save, fit, product, unwanted):
    token = _ZERO
    for r in range(first, last):
        fit[:], total, factors = _ZERO, 0.0, 0
        product[:] = _ONE
        for at in range(0, P, LANES):
            if factors == _FACTORS:
                total -= _log_of_product(product)
                product[:], factors = _ONE, 0
            slope = row(slopes, token, r * P + at)
            if not save:
                slope = row(unwanted.ctypes.data, token, 0)
            n = min(LANES, P - at)
            x_at, logits_at = row(x, token, (r % B) * P + at), row(logits, token, r * P + at)
            _block(x_at, logits_at, slope, n, fit, product)
            factors += 1
        for i in range(LANES):
            total += fit[i]
        carray(row(out, token, r), (1,))[0] = total - _log_of_product(product)


@njit(**_EXACT)
def _log_of_product(product):
    whole = 1.0
    for i in range(LANES):
        whole *= product[i]
    return math.log(whole)


@work
def log_prob(data):
    """log p(x|z) (R,) and, if ``save``, its slopes (R, P).

    ``x`` is (B, P), ``logits`` and ``slopes`` (R, P), R = S·B, all contiguous: their addresses.
    """
    x, logits, slopes, out, R, B, P, save = carray(row(data, _WHOLE, FIRST), (8,))
    fit, product = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    unwanted = np.empty(LANES, np.float32)
    claims, late = counter(data, 0), helps(data)
    first = claim(claims, R, _ROWS, late)
    while first < R:
        last = min(first + _ROWS, R)
        _rows(x, logits, slopes, out, B, P, first, last, save, fit, product, unwanted)
        first = claim(claims, R, _ROWS, late)

"""Draws from a diagonal Gaussian, their log-density and the adjoint, on a CPU in one pass each.

    z = μ + exp(½ log σ²) ε,   log q = -D/2 log 2π - ½ Σ_d (ε_d² + log σ_d²)

Arithmetic is float64 whatever the tensors hold. Addresses travel as integers, as in
:mod:`flowvae.flows.kernels.cpu`; memory is contiguous but for the rows of μ and log σ², given as
(address, stride from row to row).
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray, njit

from flowvae.flows.kernels.cpu_math import exp_parts, row

__all__ = ["adjoint", "draw", "standard_log_prob"]

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_EXACT = {"error_model": "numpy", "nogil": True, "cache": True}


@njit(**_EXACT)
def draw(token, loc, log_var, eps, z, log_q, S, B, D, first, last):
    """z (S, B, D) and log q (S, B) for data first ≤ b < last."""
    sigma, total = np.empty((last - first, D)), np.zeros(last - first)
    for b in range(first, last):
        logs = carray(row(log_var[0], token, b * log_var[1]), (D,))
        for d in range(D):
            scale, p = exp_parts(0.5 * logs[d])
            sigma[b - first, d] = scale * p + scale
            total[b - first] += logs[d]
    for s in range(S):
        for b in range(first, last):
            mean = carray(row(loc[0], token, b * loc[1]), (D,))
            noise = carray(row(eps, token, (s * B + b) * D), (D,))
            point = carray(row(z, token, (s * B + b) * D), (D,))
            squares = 0.0
            for d in range(D):
                x = np.float64(noise[d])
                point[d] = mean[d] + sigma[b - first, d] * x
                squares += x * x
            log_density = -0.5 * (squares + total[b - first]) - D * _HALF_LOG_TWO_PI
            carray(row(log_q, token, s * B + b), (1,))[0] = log_density


@njit(**_EXACT)
def adjoint(token, log_var, eps, z_bar, log_q_bar, loc_bar, log_var_bar, S, B, D, first, last):
    """Gradients of μ and log σ², (B, D): Σ_s z̄ and ½ (σ Σ_s z̄ ε - Σ_s q̄)."""
    n = last - first
    plain, by_noise, total = np.zeros((n, D)), np.zeros((n, D)), np.zeros(n)
    for s in range(S):
        for b in range(first, last):
            i = b - first
            noise = carray(row(eps, token, (s * B + b) * D), (D,))
            point_bar = carray(row(z_bar, token, (s * B + b) * D), (D,))
            total[i] += carray(row(log_q_bar, token, s * B + b), (1,))[0]
            for d in range(D):
                g = np.float64(point_bar[d])
                plain[i, d] += g
                by_noise[i, d] += g * noise[d]
    for b in range(first, last):
        i = b - first
        logs = carray(row(log_var[0], token, b * log_var[1]), (D,))
        mean_bar = carray(row(loc_bar, token, b * D), (D,))
        logs_bar = carray(row(log_var_bar, token, b * D), (D,))
        for d in range(D):
            scale, p = exp_parts(0.5 * logs[d])
            mean_bar[d] = plain[i, d]
            logs_bar[d] = 0.5 * ((scale * p + scale) * by_noise[i, d] - total[i])


@njit(**_EXACT)
def standard_log_prob(token, z, log_p, D, first, last):
    """log N(z; 0, I) of rows first ≤ r < last of z (R, D)."""
    for r in range(first, last):
        point = carray(row(z, token, r * D), (D,))
        squares = 0.0
        for d in range(D):
            x = np.float64(point[d])
            squares += x * x
        carray(row(log_p, token, r), (1,))[0] = -0.5 * squares - D * _HALF_LOG_TWO_PI

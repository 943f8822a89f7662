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
def draw(token, loc, log_var, eps, z, log_q, S, B, D):
    """z (S, B, D) and log q (S, B)."""
    sigma, total = np.empty((B, D)), np.zeros(B)
    for b in range(B):
        logs = carray(row(log_var[0], token, b * log_var[1]), (D,))
        for d in range(D):
            scale, p = exp_parts(0.5 * logs[d])
            sigma[b, d] = scale * p + scale
            total[b] += logs[d]
    for s in range(S):
        for b in range(B):
            mean = carray(row(loc[0], token, b * loc[1]), (D,))
            noise = carray(row(eps, token, (s * B + b) * D), (D,))
            point = carray(row(z, token, (s * B + b) * D), (D,))
            squares = 0.0
            for d in range(D):
                x = np.float64(noise[d])
                point[d] = mean[d] + sigma[b, d] * x
                squares += x * x
            log_density = -0.5 * (squares + total[b]) - D * _HALF_LOG_TWO_PI
            carray(row(log_q, token, s * B + b), (1,))[0] = log_density


@njit(**_EXACT)
def adjoint(token, log_var, eps, z_bar, log_q_bar, loc_bar, log_var_bar, S, B, D):
    """Gradients of μ and log σ², (B, D): Σ_s z̄ and ½ (σ Σ_s z̄ ε - Σ_s q̄)."""
    plain, by_noise, total = np.zeros((B, D)), np.zeros((B, D)), np.zeros(B)
    for s in range(S):
        for b in range(B):
            noise = carray(row(eps, token, (s * B + b) * D), (D,))
            point_bar = carray(row(z_bar, token, (s * B + b) * D), (D,))
            total[b] += carray(row(log_q_bar, token, s * B + b), (1,))[0]
            for d in range(D):
                g = np.float64(point_bar[d])
                plain[b, d] += g
                by_noise[b, d] += g * noise[d]
    for b in range(B):
        logs = carray(row(log_var[0], token, b * log_var[1]), (D,))
        mean_bar = carray(row(loc_bar, token, b * D), (D,))
        logs_bar = carray(row(log_var_bar, token, b * D), (D,))
        for d in range(D):
            scale, p = exp_parts(0.5 * logs[d])
            mean_bar[d] = plain[b, d]
            logs_bar[d] = 0.5 * ((scale * p + scale) * by_noise[b, d] - total[b])


@njit(**_EXACT)
def standard_log_prob(token, z, log_p, R, D):
    """log N(z; 0, I) of the rows of z (R, D)."""
    for r in range(R):
        point = carray(row(z, token, r * D), (D,))
        squares = 0.0
        for d in range(D):
            x = np.float64(point[d])
            squares += x * x
        carray(row(log_p, token, r), (1,))[0] = -0.5 * squares - D * _HALF_LOG_TWO_PI

"""Draws from a diagonal Gaussian with their log-density: one node of the graph where it can be."""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from flowvae.eager import fit_for_kernels

__all__ = ["draw", "standard_log_prob"]

# Up to so many numbers one pass on one thread is faster than a dozen of PyTorch's operations.
_FEW = 8192
_TOKENS = {torch.float32: np.float32(0), torch.float64: np.float64(0)}


def draw(loc: Tensor, log_var: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """z = μ + σ ⊙ ε and log N(z; μ, diag σ²) in terms of ε: no division by a small σ.

    μ and log σ² are (..., D), ε is (*samples, ..., D); the log-density has no D, in nats.
    """
    fits = (
        loc.shape == log_var.shape == eps.shape[1:]
        and loc.dim() == 2
        and not eps.requires_grad
        and _few(loc, log_var, eps)
    )
    if fits:
        return _Draw.apply(loc, log_var, eps)
    log_sigma = 0.5 * log_var
    z = torch.addcmul(loc, log_sigma.exp(), eps)
    return z, standard_log_prob(eps) - log_sigma.sum(-1)


def standard_log_prob(eps: Tensor) -> Tensor:
    """log N(ε; 0, I), (...), in nats."""
    if eps.dim() > 1 and _few(eps):
        return _StandardLogProb.apply(eps)
    return -0.5 * eps.square().sum(-1) - 0.5 * math.log(2 * math.pi) * eps.shape[-1]


def _few(*tensors: Tensor) -> bool:
    return (
        tensors[0].dtype in _TOKENS
        and all(x.numel() <= _FEW for x in tensors)
        and fit_for_kernels(*tensors)
    )


@cache
def _kernels() -> ModuleType:
    # numba takes half a second to import: not before it is needed.
    from flowvae.kernels import gaussian

    return gaussian


def _together(x: Tensor) -> Tensor:
    """x itself if each of its rows lies together in memory, else a copy."""
    return x if x.stride(1) == 1 else x.contiguous()


def _rows(x: Tensor) -> tuple[int, int]:
    """Address, and stride from row to row."""
    return x.data_ptr(), x.stride(0)


class _Draw(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loc, log_var, eps):
        eps = eps.contiguous()
        S, B, D = eps.shape
        z, log_q = torch.empty_like(eps), eps.new_empty((S, B))
        addresses = (eps.data_ptr(), z.data_ptr(), log_q.data_ptr())
        means, logs = _together(loc), _together(log_var)
        arguments = (_TOKENS[eps.dtype], _rows(means), _rows(logs), *addresses, S, B, D)
        _kernels().draw(*arguments)
        ctx.save_for_backward(log_var, eps)
        return z, log_q

    @staticmethod
    def backward(ctx, z_bar, log_q_bar):  # pyright: ignore[reportIncompatibleMethodOverride]
        log_var, eps = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            by_noise = (z_bar * eps).sum(0) * (0.5 * log_var).exp()
            return z_bar.sum(0), 0.5 * (by_noise - log_q_bar.sum(0).unsqueeze(-1)), None
        z_bar, log_q_bar = z_bar.contiguous(), log_q_bar.contiguous()
        loc_bar, log_var_bar = eps.new_empty(eps.shape[1:]), eps.new_empty(eps.shape[1:])
        bars = (z_bar.data_ptr(), log_q_bar.data_ptr(), loc_bar.data_ptr(), log_var_bar.data_ptr())
        logs = _together(log_var)
        arguments = (_TOKENS[eps.dtype], _rows(logs), eps.data_ptr(), *bars, *eps.shape)
        _kernels().adjoint(*arguments)
        return loc_bar, log_var_bar, None


class _StandardLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx, eps):
        points = eps.contiguous()
        D, out = eps.shape[-1], points.new_empty(eps.shape[:-1])
        arguments = (points.data_ptr(), out.data_ptr(), out.numel(), D)
        _kernels().standard_log_prob(_TOKENS[eps.dtype], *arguments)
        ctx.save_for_backward(eps)
        return out

    @staticmethod
    def backward(ctx, out_bar):  # pyright: ignore[reportIncompatibleMethodOverride]
        (eps,) = ctx.saved_tensors
        return -out_bar.unsqueeze(-1) * eps

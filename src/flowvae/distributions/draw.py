"""Draws from a diagonal Gaussian with their log-density: one node of the graph where it can be.

Where planar flows follow, they are part of that node.
"""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from flowvae.eager import fit_for_kernels
from flowvae.flows import reference
from flowvae.flows.planar import Constraint, is_usual, planar_flow

__all__ = ["draw", "draw_planar", "standard_log_prob"]

# Up to so many numbers one pass on one thread is faster than a dozen of PyTorch's operations.
_FEW = 8192
_TOKENS = {torch.float32: np.float32(0), torch.float64: np.float64(0)}


def draw(loc: Tensor, log_var: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """z = μ + σ ⊙ ε and log N(z; μ, diag σ²) in terms of ε: no division by a small σ.

    μ and log σ² are (..., D), ε is (*samples, ..., D); the log-density has no D, in nats.
    """
    if _fits(loc, log_var, eps):
        return _Draw.apply(loc, log_var, eps)
    log_sigma = 0.5 * log_var
    z = torch.addcmul(loc, log_sigma.exp(), eps)
    return z, standard_log_prob(eps) - log_sigma.sum(-1)


def draw_planar(
    loc: Tensor,
    log_var: Tensor,
    eps: Tensor,
    flow: tuple[Tensor, Tensor, Tensor],
    constraint: Constraint,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`draw`, and then planar flows with parameters w, u, b: z_K, log q₀(z₀), Σ_k ladj_k."""
    if (
        torch.is_grad_enabled()
        and loc.requires_grad
        and _fits(loc, log_var, eps)
        and is_usual(eps, *flow, constraint)
        and fit_for_kernels(*flow)
    ):
        return _DrawPlanar.apply(loc, log_var, eps, *flow, constraint)
    z, log_base = draw(loc, log_var, eps)
    end, ladj = planar_flow(z, *flow, constraint)
    return end, log_base, ladj


def standard_log_prob(eps: Tensor) -> Tensor:
    """log N(ε; 0, I), (...), in nats."""
    if eps.dim() > 1 and _few(eps):
        return _StandardLogProb.apply(eps)
    return -0.5 * eps.square().sum(-1) - 0.5 * math.log(2 * math.pi) * eps.shape[-1]


def _fits(loc: Tensor, log_var: Tensor, eps: Tensor) -> bool:
    return (
        loc.shape == log_var.shape == eps.shape[1:]
        and loc.dim() == 2
        and not eps.requires_grad
        and _few(loc, log_var, eps)
    )


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


@cache
def _launcher() -> ModuleType:
    from flowvae.flows.kernels import cpu_launch

    return cpu_launch


def _together(x: Tensor) -> Tensor:
    """x itself if each of its rows lies together in memory, else a copy."""
    return x if x.stride(1) == 1 else x.contiguous()


def _rows(x: Tensor) -> tuple[int, int]:
    """Address, and stride from row to row."""
    return x.data_ptr(), x.stride(0)


def _drawn(loc: Tensor, log_var: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    S, B, D = eps.shape
    z, log_q = torch.empty_like(eps), eps.new_empty((S, B))
    addresses = (eps.data_ptr(), z.data_ptr(), log_q.data_ptr())
    means, logs = _together(loc), _together(log_var)
    _kernels().draw(_TOKENS[eps.dtype], _rows(means), _rows(logs), *addresses, S, B, D)
    return z, log_q


def _adjoint(
    log_var: Tensor, eps: Tensor, z_bar: Tensor, log_q_bar: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of μ and log σ²."""
    if torch.is_grad_enabled():  # to be differentiated again
        by_noise = (z_bar * eps).sum(0) * (0.5 * log_var).exp()
        return z_bar.sum(0), 0.5 * (by_noise - log_q_bar.sum(0).unsqueeze(-1))
    z_bar, log_q_bar = z_bar.contiguous(), log_q_bar.contiguous()
    loc_bar, log_var_bar = eps.new_empty(eps.shape[1:]), eps.new_empty(eps.shape[1:])
    bars = (z_bar.data_ptr(), log_q_bar.data_ptr(), loc_bar.data_ptr(), log_var_bar.data_ptr())
    logs = _together(log_var)
    _kernels().adjoint(_TOKENS[eps.dtype], _rows(logs), eps.data_ptr(), *bars, *eps.shape)
    return loc_bar, log_var_bar


class _Draw(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loc, log_var, eps):
        eps = eps.contiguous()
        ctx.save_for_backward(log_var, eps)
        return _drawn(loc, log_var, eps)

    @staticmethod
    def backward(ctx, z_bar, log_q_bar):  # pyright: ignore[reportIncompatibleMethodOverride]
        log_var, eps = ctx.saved_tensors
        return *_adjoint(log_var, eps, z_bar, log_q_bar), None


class _DrawPlanar(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loc, log_var, eps, w, u, b, constraint):
        eps = eps.contiguous()
        z, log_base = _drawn(loc, log_var, eps)
        ctx.shift = reference.SHIFTS[constraint]
        end, ladj, kept = _launcher().forward(z, w, u, b, ctx.shift, True, False)
        ctx.save_for_backward(loc, log_var, eps, w, u, b, kept)
        return end, log_base, ladj

    @staticmethod
    def backward(ctx, end_bar, log_base_bar, ladj_bar):  # pyright: ignore
        loc, log_var, eps, w, u, b, kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            inputs = (loc, log_var, w, u, b)
            z, log_base = draw(loc, log_var, eps)
            end, ladj = reference.forward(z, w, u, b, ctx.shift)
            outputs, bars = (end, log_base, ladj), (end_bar, log_base_bar, ladj_bar)
            found = torch.autograd.grad(outputs, inputs, bars, create_graph=True, allow_unused=True)
            return *found[:2], None, *found[2:], None
        z_bar, *bars = _launcher().backward(w, u, b, kept, end_bar, ladj_bar, ctx.shift, False)
        return *_adjoint(log_var, eps, z_bar, log_base_bar), None, *bars, None


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

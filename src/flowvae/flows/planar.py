"""Planar flows (Rezende & Mohamed 2015, arXiv 1505.05770, eq. 10-13 and appendix A.1).

Letters are the paper's. For k = 1..K, with t_k = tanh(a_k):

    m(a)   = softplus(a) - 1                                  "paper"
    m(a)   = softplus(a + ln(e - 1)) - 1                      "centred", m(0) = 0
    û_k    = u_k + (m(w_kᵀu_k) - w_kᵀu_k) w_k / ‖w_k‖²       so that w_kᵀû_k = m(w_kᵀu_k) > -1
    a_k    = w_kᵀ z_{k-1} + b_k
    z_k    = z_{k-1} + û_k t_k
    ladj_k = log(1 + (1 - t_k²) w_kᵀû_k)
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["CONSTRAINTS", "Constraint", "planar_flow"]

Constraint = Literal["paper", "centred"]
CONSTRAINTS: tuple[Constraint, ...] = get_args(Constraint)

# m is zero where its argument is ln(e - 1), so both constraints are one function M of the
# distance to its zero:  M(d) = softplus(d + ln(e-1)) - 1 = log1p((1 - 1/e) expm1(d)).
_ZERO_OF_M = math.log(math.e - 1)
_SHIFT: dict[str, float] = {"paper": _ZERO_OF_M, "centred": 0.0}


def planar_flow(
    z: Float[Tensor, "*#batch D"],
    w: Float[Tensor, "*#params K D"],
    u: Float[Tensor, "*#params K D"],
    b: Float[Tensor, "*#params K"],
    constraint: Constraint = "paper",
) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
    """Push z through K planar flows.

    z_k = z_{k-1} + û_k tanh(w_kᵀ z_{k-1} + b_k),  k = 1..K, with û_k the constrained u_k that
    makes every layer invertible. Where w_k = 0 a layer is the translation by u_k tanh(b_k).

    Args:
        z: points, (..., D).
        w: directions, (..., K, D).
        u: unconstrained shifts, (..., K, D).
        b: offsets, (..., K).
        constraint: ``"paper"`` is m(a) = softplus(a) - 1 of appendix A.1, whose û grows like
            0.307/‖w‖ as w → 0; ``"centred"`` is m(a) = softplus(a + ln(e-1)) - 1, which is
            bounded there and makes u = 0 the identity.

    The batch shapes of z and of the parameters broadcast: parameters (B, K, D) serve samples
    z (S, B, D) without copies. bfloat16 and float16 are computed in float32.

    Returns:
        z_K, (..., D), and Σ_k log|det ∂z_k/∂z_{k-1}|, (...), in nats, both in z's dtype.

    Raises:
        TypeError: an input is no floating-point tensor, or dtypes differ.
        ValueError: shapes do not fit together, or the constraint is unknown.

    Source: "Variational Inference with Normalizing Flows", arXiv 1505.05770.

    Examples:
        >>> import torch
        >>> from flowvae.flows import planar_flow
        >>> z, w, u = torch.zeros(5, 2), torch.ones(3, 2), torch.zeros(3, 2)
        >>> z_K, ladj = planar_flow(z, w, u, torch.zeros(3), constraint="centred")
        >>> z_K.shape, ladj.tolist()
        (torch.Size([5, 2]), [0.0, 0.0, 0.0, 0.0, 0.0])
    """
    _check(z, w, u, b, constraint)
    if z.dtype in (torch.bfloat16, torch.float16):
        z_K, ladj = _planar_flow(z.float(), w.float(), u.float(), b.float(), constraint)
        return z_K.to(z.dtype), ladj.to(z.dtype)
    return _planar_flow(z, w, u, b, constraint)


def _planar_flow(
    z: Tensor, w: Tensor, u: Tensor, b: Tensor, constraint: Constraint
) -> tuple[Tensor, Tensor]:
    """The map itself; everything that does not depend on z stands outside the loop over k."""
    batch = torch.broadcast_shapes(z.shape[:-1], w.shape[:-2], u.shape[:-2], b.shape[:-1])
    z = z.expand(batch + z.shape[-1:])
    if w.shape[-2] == 0:
        return z.clone(), z.new_zeros(z.shape[:-1])
    u_hat, m, log_s = constrain(w, u, constraint)
    a_all = []
    for w_k, u_hat_k, b_k in zip(w.unbind(-2), u_hat.unbind(-2), b.unbind(-1), strict=True):
        a = (w_k * z).sum(-1) + b_k
        z = z + u_hat_k * torch.tanh(a).unsqueeze(-1)
        a_all.append(a)
    ladj = _log_abs_det(torch.stack(a_all, -1), m, log_s)
    return z, ladj.sum(-1)


def constrain(
    w: Tensor, u: Tensor, constraint: Constraint
) -> tuple[Float[Tensor, "*p K D"], Float[Tensor, "*p K"], Float[Tensor, "*p K"]]:
    """û with w·û = m(w·u), then m itself and log(1 + m), finite even where 1 + m underflows."""
    wu = (w * u).sum(-1)
    d = wu - _SHIFT[constraint]
    # expm1 form: exact near m = 0, where softplus - 1 cancels. softplus form: no overflow.
    small = d < 1.0
    m = torch.where(
        small,
        torch.log1p((1 - 1 / math.e) * torch.expm1(d.clamp(max=1.0))),
        _softplus(d.clamp(min=1.0) + _ZERO_OF_M) - 1,
    )
    # log softplus(v) -> v - e^v / 2 as v -> -inf
    v = d + _ZERO_OF_M
    tail = v < -15.0
    log_s = torch.where(
        tail, v - 0.5 * torch.exp(v.clamp(max=-15.0)), torch.log(_softplus(v.clamp(min=-15.0)))
    )
    ww = (w * w).sum(-1)
    zero = ww < torch.finfo(w.dtype).tiny  # w = 0: no direction to correct u along
    r = torch.where(zero, 0.0, (m - wu) / torch.where(zero, 1.0, ww))
    m = torch.where(zero, 0.0, m)
    log_s = torch.where(zero, 0.0, log_s)
    return u + r.unsqueeze(-1) * w, m, log_s


def _softplus(x: Tensor) -> Tensor:
    # torch's softplus turns linear beyond 20, an error of 2e-9 that float64 would see.
    return -logsigmoid(-x)


def _log_abs_det(a: Tensor, m: Tensor, log_s: Tensor) -> Tensor:
    """log(1 + sech²(a) m), elementwise, for m = s - 1 > -1 given together with log s.

    1 + sech² m = tanh² + sech² s is a sum of positive terms, so nothing cancels as m -> -1;
    the logarithms of the two terms are added because s itself underflows at wᵀu near -100.
    """
    t = torch.tanh(a)
    limit = 40.0 if a.dtype == torch.float32 else 300.0  # cosh must not overflow; sech² is 0 there
    sech2 = torch.cosh(a.clamp(-limit, limit)).square().reciprocal()
    y = sech2 * m
    near = y > -0.5
    near_zero = torch.log1p(torch.where(near, y, 0.0))
    at_zero = near | (t.abs() < torch.finfo(a.dtype).tiny)
    log_t2 = torch.where(at_zero, -1e30, 2 * torch.log(torch.where(at_zero, 1.0, t).abs()))
    log_h = torch.log(torch.where(near, 1.0, sech2))
    log_hs = log_h + log_s
    high, low = torch.maximum(log_t2, log_hs), torch.minimum(log_t2, log_hs)
    # torch.logaddexp, whose second derivative is NaN where the terms are far apart
    near_minus_one = high - logsigmoid(high - low)
    return torch.where(near, near_zero, near_minus_one)


def _check(z: Tensor, w: Tensor, u: Tensor, b: Tensor, constraint: str) -> None:
    """One clear error that names the argument, what was expected and what was got."""
    for name, value in (("z", z), ("w", w), ("u", u), ("b", b)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
        if not value.dtype.is_floating_point:
            raise TypeError(f"{name}: expected a floating-point tensor, got {value.dtype}")
        if value.dtype != z.dtype:
            raise TypeError(f"{name}: expected the dtype of z, {z.dtype}, got {value.dtype}")
    if constraint not in CONSTRAINTS:
        raise ValueError(f"constraint: expected one of {CONSTRAINTS}, got {constraint!r}")
    if z.dim() < 1:
        raise ValueError("z: expected shape (..., D), got a scalar")
    D = z.shape[-1]
    if w.dim() < 2 or w.shape[-1] != D:
        raise ValueError(f"w: expected shape (..., K, {D}), got {tuple(w.shape)}")
    K = w.shape[-2]
    if u.dim() < 2 or u.shape[-2:] != (K, D):
        raise ValueError(f"u: expected shape (..., {K}, {D}), got {tuple(u.shape)}")
    if b.dim() < 1 or b.shape[-1] != K:
        raise ValueError(f"b: expected shape (..., {K}), got {tuple(b.shape)}")
    try:
        torch.broadcast_shapes(z.shape[:-1], w.shape[:-2], u.shape[:-2], b.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"z, w, u, b: batch shapes do not broadcast, got {tuple(z.shape[:-1])}, "
            f"{tuple(w.shape[:-2])}, {tuple(u.shape[:-2])}, {tuple(b.shape[:-1])}"
        ) from None

"""The planar flow in plain PyTorch: any dtype, any device, differentiable any number of times.

The kernels compute the same functions faster; the formulas are in docs/model.md and
docs/planar.md. ``shift`` is where the constraint's m has its zero, see :data:`SHIFTS`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from flowvae.flows.portable import refuse_if_portable
from flowvae.kernels.planar import ROUNDINGS

__all__ = ["SHIFTS", "constrain", "forward", "inverse"]

# m is zero where its argument is ln(e - 1), so both constraints are one function M of the
# distance to its zero:  M(d) = softplus(d + ln(e-1)) - 1 = log1p((1 - 1/e) expm1(d)).
_ZERO_OF_M = math.log(math.e - 1)
SHIFTS = {"paper": _ZERO_OF_M, "centred": 0.0}


def forward(z: Tensor, w: Tensor, u: Tensor, b: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """z_K and Σ ladj_k; everything that does not depend on z stands outside the loop over k."""
    z = _expanded(z, w, u, b)
    u_hat, m, log_s = constrain(w, u, shift)
    a_all = []
    for w_k, u_hat_k, b_k in zip(w.unbind(-2), u_hat.unbind(-2), b.unbind(-1), strict=True):
        a = (w_k * z).sum(-1) + b_k
        z = z + u_hat_k * torch.tanh(a).unsqueeze(-1)
        a_all.append(a)
    if not a_all:
        return z.clone(), z.new_zeros(z.shape[:-1])
    return z, _log_abs_det(torch.stack(a_all, -1), m, log_s).sum(-1)


def inverse(z_K: Tensor, w: Tensor, u: Tensor, b: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """z and -Σ ladj_k: in layer k, a + m tanh a = wᵀz_k + b has one root a."""
    z = _expanded(z_K, w, u, b)
    u_hat, m, log_s = constrain(w, u, shift)
    a_all = []
    for k in range(w.shape[-2] - 1, -1, -1):
        tau = (w[..., k, :] * z).sum(-1) + b[..., k]
        a = _Root.apply(tau, *torch.broadcast_tensors(m[..., k], log_s[..., k], tau)[:2])
        z = z - u_hat[..., k, :] * torch.tanh(a).unsqueeze(-1)
        z = z + _settling(z, a, b[..., k], w[..., k, :])
        a_all.append(a)
    if not a_all:
        return z.clone(), z.new_zeros(z.shape[:-1])
    return z, -_log_abs_det(torch.stack(a_all[::-1], -1), m, log_s).sum(-1)


def _expanded(z: Tensor, w: Tensor, u: Tensor, b: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(z.shape[:-1], w.shape[:-2], u.shape[:-2], b.shape[:-1])
    return z.expand(batch + z.shape[-1:])


@torch.no_grad()
def _settling(z: Tensor, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """The step along w to where wᵀz + b is a: z_k - û tanh a cancels where û is large.

    No step where the difference is the rounding of a and b: 1/‖w‖ would magnify it.
    """
    ww, number = w.square().sum(-1), torch.finfo(w.dtype)
    rest = a - b - (w * z).sum(-1)
    none = (ww < number.tiny) | (rest.abs() <= ROUNDINGS * number.eps * (a.abs() + b.abs()))
    step = torch.where(none, 0.0, rest / torch.where(none, 1.0, ww))
    return step.unsqueeze(-1) * w


class _Root(torch.autograd.Function):
    """The root a of a + m tanh a = τ, with s = 1 + m > 0 given as log s.

    By the implicit function theorem da = (dτ - tanh a dm) / (1 + m sech² a); written in a itself,
    so that it can be differentiated again. How the root is found: see ``solve`` in
    kernels/planar/cpu_scalars.py.
    """

    @staticmethod
    def forward(tau: Tensor, m: Tensor, log_s: Tensor) -> Tensor:
        refuse_if_portable("the inverse of this flow is found by a search of no fixed length")
        x, c, s = tau.abs(), m.abs(), log_s.exp()
        tiny = torch.finfo(tau.dtype).tiny
        cube_root = torch.where(5 * x < c, (5 * x / c.clamp(min=tiny)).pow(1 / 3), x + c)
        above = torch.minimum(torch.minimum(x + c, x / s.clamp(min=tiny)), cube_root)
        a = torch.where(m < 0, above, torch.maximum(x - c, x / (1 + c)))
        for _ in range(100):
            t = torch.tanh(a)
            det = (t.square() + _sech2(a) * s).clamp(min=tiny)
            step = (a + m * t - x) / det
            a = (a - step).clamp(min=0)
            if not bool((step.abs() > 2 * torch.finfo(a.dtype).eps * a).any()):
                break
        return torch.where(tau < 0, -a, a)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(output, inputs[2])
        ctx.save_for_forward(output, inputs[2])

    @staticmethod
    def vmap(info, in_dims, *inputs: Tensor) -> tuple[Tensor, int]:
        """Elementwise: the dimension that is mapped over comes first, as one more of the batch."""
        del info
        moved = [
            x if dim is None else x.movedim(dim, 0) for x, dim in zip(inputs, in_dims, strict=True)
        ]
        most = max(x.dim() - (dim is not None) for x, dim in zip(inputs, in_dims, strict=True))
        aligned = [
            x if dim is None else x.reshape(len(x), *[1] * (most - x.dim() + 1), *x.shape[1:])
            for x, dim in zip(moved, in_dims, strict=True)
        ]
        return _Root.apply(*torch.broadcast_tensors(*aligned)), 0

    @staticmethod
    def jvp(ctx, tau_dot, m_dot, _) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        a, log_s = ctx.saved_tensors
        t = torch.tanh(a)
        det = t.square() + _sech2(a) * log_s.exp()
        moved = torch.zeros_like(a) if tau_dot is None else tau_dot
        if m_dot is not None:
            moved = moved - t * m_dot
        return moved / det.clamp(min=torch.finfo(a.dtype).tiny)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore
        a, log_s = ctx.saved_tensors
        t = torch.tanh(a)
        det = t.square() + _sech2(a) * log_s.exp()
        by_tau = gradient / det.clamp(min=torch.finfo(a.dtype).tiny)
        return by_tau, -t * by_tau, None


def _sech2(a: Tensor) -> Tensor:
    # cosh must not overflow; sech² is 0 there
    limit = 40.0 if a.dtype == torch.float32 else 300.0
    return torch.cosh(a.clamp(-limit, limit)).square().reciprocal()


def constrain(
    w: Tensor, u: Tensor, shift: float
) -> tuple[Float[Tensor, "*p K D"], Float[Tensor, "*p K"], Float[Tensor, "*p K"]]:
    """û with w·û = m(w·u), then m itself and log(1 + m), finite even where 1 + m underflows."""
    wu = (w * u).sum(-1)
    d = wu - shift
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
    zero = ww < torch.finfo(w.dtype).tiny  # w = 0: no direction to correct u along, so û = u
    r = torch.where(zero, 0.0, (m - wu) / torch.where(zero, 1.0, ww))
    m = torch.where(zero, wu, m)  # 0, with the gradient of wᵀû = wᵀu
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
    sech2 = _sech2(a)
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

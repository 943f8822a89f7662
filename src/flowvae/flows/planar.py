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
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TransformedDistribution

from flowvae.flows import reference
from flowvae.flows.bijection import Bijection
from flowvae.flows.portable import is_portable
from flowvae.kernels.planar import ops
from flowvae.precision import at_least_float32

__all__ = [
    "CONSTRAINTS",
    "Constraint",
    "PlanarFlow",
    "PlanarTransform",
    "planar_flow",
    "planar_flow_inverse",
]

Constraint = Literal["paper", "centred"]
CONSTRAINTS: tuple[Constraint, ...] = get_args(Constraint)


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
        ValueError: shapes do not fit together, devices differ, or the constraint is unknown.

    Source: "Variational Inference with Normalizing Flows", arXiv 1505.05770.

    Examples:
        >>> import torch
        >>> from flowvae.flows import planar_flow
        >>> z, w, u = torch.zeros(5, 2), torch.ones(3, 2), torch.zeros(3, 2)
        >>> z_K, ladj = planar_flow(z, w, u, torch.zeros(3), constraint="centred")
        >>> z_K.shape, ladj.tolist()
        (torch.Size([5, 2]), [0.0, 0.0, 0.0, 0.0, 0.0])
    """
    return _dispatch(z, w, u, b, constraint, inverted=False)


def planar_flow_inverse(
    z_K: Float[Tensor, "*#batch D"],
    w: Float[Tensor, "*#params K D"],
    u: Float[Tensor, "*#params K D"],
    b: Float[Tensor, "*#params K"],
    constraint: Constraint = "paper",
) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
    """Pull z_K back through K planar flows: the inverse of :func:`planar_flow`.

    A tanh planar flow has no closed-form inverse, but an exact numerical one. With c = w·û > -1
    and τ = wᵀz_k + b, the number a = wᵀz_{k-1} + b solves a + c tanh a = τ, which is increasing
    in a; then z_{k-1} = z_k - û tanh a. Gradients are those of the implicit function theorem.

    Args:
        z_K: points, (..., D).
        w: directions, (..., K, D).
        u: unconstrained shifts, (..., K, D).
        b: offsets, (..., K).
        constraint: as in :func:`planar_flow`, and so are batch shapes and dtypes.

    Returns:
        z, (..., D), and the log-determinant of this map, log|det ∂z/∂z_K| = -Σ_k ladj_k, (...), in
        nats: what is to be added to log q₀(z) for log q_K(z_K).

    Raises:
        TypeError: an input is no floating-point tensor, or dtypes differ.
        ValueError: shapes do not fit together, devices differ, or the constraint is unknown.

    Examples:
        >>> import torch
        >>> from flowvae.flows import planar_flow, planar_flow_inverse
        >>> z, w, u, b = (torch.randn(*s).double() for s in ((5, 2), (3, 2), (3, 2), (3,)))
        >>> z_K, ladj = planar_flow(z, w, u, b)
        >>> again, inverse_ladj = planar_flow_inverse(z_K, w, u, b)
        >>> torch.allclose(again, z), torch.allclose(inverse_ladj, -ladj)
        (True, True)
    """
    return _dispatch(z_K, w, u, b, constraint, inverted=True)


class PlanarTransform(Bijection):
    """K planar flows as a :class:`Bijection`.

    Args:
        w: directions, (..., K, D).
        u: unconstrained shifts, (..., K, D).
        b: offsets, (..., K).
        constraint: ``"paper"`` or ``"centred"``, see :func:`flowvae.flows.planar_flow`.
        cache_size: 1 keeps the last pair of points, as in ``torch.distributions``.

    Source: "Variational Inference with Normalizing Flows", arXiv 1505.05770.

    Examples:
        >>> import torch
        >>> from torch.distributions import Independent, Normal, TransformedDistribution
        >>> from flowvae.flows import PlanarTransform
        >>> flow = PlanarTransform(torch.randn(3, 2), torch.randn(3, 2), torch.randn(3))
        >>> base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> q = TransformedDistribution(base, [flow])
        >>> q.log_prob(torch.randn(5, 2)).shape   # at points it did not draw: the exact inverse
        torch.Size([5])
        >>> z, ladj = flow.inv.call_and_ladj(flow(torch.ones(2)))
        >>> torch.allclose(z, torch.ones(2), atol=1e-4)
        True
    """

    layered: ClassVar = {"w": 1, "u": 1, "b": 0}

    def __init__(
        self,
        w: Float[Tensor, "*#params K D"],
        u: Float[Tensor, "*#params K D"],
        b: Float[Tensor, "*#params K"],
        constraint: Constraint = "paper",
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size)
        self.w, self.u, self.b = w, u, b
        self.constraint: Constraint = constraint

    def forward_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return planar_flow(z, self.w, self.u, self.b, self.constraint)

    def inverse_and_ladj(self, z_K: Tensor) -> tuple[Tensor, Tensor]:
        return planar_flow_inverse(z_K, self.w, self.u, self.b, self.constraint)


class PlanarFlow(nn.Module):
    """A density on R^D to fit: N(0, I) through K planar flows with parameters of its own.

    log q(z_K) = log N(z; 0, I) + log|det ∂z/∂z_K|,  z the inverse of the flows at z_K.

    Args:
        dim: D ≥ 1.
        num_flows: K ≥ 0.
        constraint: ``"centred"`` (the default: it starts and stays near the identity where u
            is small) or ``"paper"``.

    Examples:
        >>> import torch
        >>> from flowvae.flows import PlanarFlow
        >>> flow = PlanarFlow(dim=2, num_flows=8)
        >>> loss = -flow().log_prob(torch.randn(100, 2)).mean()
        >>> loss.backward()
        >>> flow().sample((5,)).shape
        torch.Size([5, 2])
    """

    zeros: Tensor

    def __init__(self, dim: int, num_flows: int, constraint: Constraint = "centred") -> None:
        super().__init__()
        if dim < 1 or num_flows < 0:
            raise ValueError(
                f"dim, num_flows: expected at least 1 and 0, got {dim} and {num_flows}"
            )
        if constraint not in CONSTRAINTS:
            raise ValueError(f"constraint: expected one of {CONSTRAINTS}, got {constraint!r}")
        self.constraint: Constraint = constraint
        self.w = nn.Parameter(torch.randn(num_flows, dim) / dim**0.5)
        self.u = nn.Parameter(0.1 * torch.randn(num_flows, dim))
        self.b = nn.Parameter(torch.randn(num_flows))
        self.register_buffer("zeros", torch.zeros(dim), persistent=False)

    def forward(self) -> TransformedDistribution:
        """The distribution at the present parameters."""
        base = Independent(Normal(self.zeros, 1.0, validate_args=False), 1, validate_args=False)
        flow = PlanarTransform(self.w, self.u, self.b, self.constraint)
        return TransformedDistribution(base, [flow], validate_args=False)


def _dispatch(
    z: Tensor, w: Tensor, u: Tensor, b: Tensor, constraint: Constraint, inverted: bool
) -> tuple[Tensor, Tensor]:
    """Check, choose the implementation, and keep to the dtype of z."""
    device = z.device.type if isinstance(z, Tensor) else "cpu"
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        # Reduced precision is for matrix products; what is multiplied through K layers is not.
        z, w, u, b = (at_least_float32(x) for x in (z, w, u, b))
    if not (usual := _is_usual(z, w, u, b, constraint)):
        _check("z_K" if inverted else "z", z, w, u, b, constraint)
    dtype, shift = z.dtype, reference.SHIFTS[constraint]
    if dtype in (torch.bfloat16, torch.float16):
        z, w, u, b = z.float(), w.float(), u.float(), b.float()
    if _kernels_fit(z, w, b):
        out, ladj = (ops.planar_map if usual else _by_kernel)(z, w, u, b, shift, inverted)
    else:
        out, ladj = (reference.inverse if inverted else reference.forward)(z, w, u, b, shift)
    return (out, ladj) if out.dtype == dtype else (out.to(dtype), ladj.to(dtype))


def _is_usual(z: Tensor, w: Tensor, u: Tensor, b: Tensor, constraint: Constraint) -> bool:
    """One point for each set, or S samples, in order: what most calls are, found out fast."""
    if not all(isinstance(x, Tensor) for x in (z, w, u, b)) or constraint not in CONSTRAINTS:
        return False
    points, sets, dtype = z.shape, w.shape, z.dtype
    return (
        len(sets) == 3
        and sets == u.shape
        and sets[:2] == b.shape
        and 2 <= len(points) <= 3
        and points[-2] == sets[0]
        and points[-1] == sets[2]
        and dtype.is_floating_point
        and dtype == w.dtype == u.dtype == b.dtype
        and z.device == w.device == u.device == b.device
    )


def _kernels_fit(z: Tensor, w: Tensor, b: Tensor) -> bool:
    if z.dtype not in (torch.float32, torch.float64) or not ops.available(z.device.type):
        return False
    if is_portable() or min(z.numel(), w.numel(), b.numel()) == 0:
        return False
    if torch.compiler.is_compiling():
        return True
    # vmap and forward-mode derivatives have no rule for the kernels.
    if torch.autograd.forward_ad._current_level >= 0:
        return False
    return torch._C._functorch.peek_interpreter_stack() is None  # pyright: ignore


def _by_kernel(
    z: Tensor, w: Tensor, u: Tensor, b: Tensor, shift: float, inverted: bool
) -> tuple[Tensor, Tensor]:
    """Bring points to (S, P, D) and parameter sets to (P, K, D), as views wherever possible.

    The dimensions of the batch along which all parameters are constant are samples of one set.
    """
    K, D = w.shape[-2:]
    batch = z.shape[:-1]
    sets = torch.broadcast_shapes(w.shape[:-2], u.shape[:-2], b.shape[:-1])
    batch = torch.broadcast_shapes(batch, sets)
    lead = len(batch) - len(sets)
    aligned = (1,) * lead + tuple(sets)
    samples = [i for i in range(len(batch)) if aligned[i] == 1]
    kept = [i for i in range(len(batch)) if aligned[i] != 1]
    order = samples + kept
    P = math.prod([batch[i] for i in kept])
    z = z.expand((*batch, D)).permute(*order, len(batch)).reshape(-1, P, D)
    w, u = (x.expand((*sets, K, D)).reshape(P, K, D) for x in (w, u))
    out, ladj = ops.planar_map(z, w, u, b.expand((*sets, K)).reshape(P, K), shift, inverted)
    shape = [batch[i] for i in order]
    back = sorted(range(len(order)), key=order.__getitem__)
    out = out.reshape([*shape, D]).permute(*back, len(batch))
    return out, ladj.reshape(shape).permute(back)


def _check(points: str, z: Tensor, w: Tensor, u: Tensor, b: Tensor, constraint: str) -> None:
    """One clear error that names the argument, what was expected and what was got."""
    for name, value in ((points, z), ("w", w), ("u", u), ("b", b)):
        _check_kind(name, value, points, z)
    if constraint not in CONSTRAINTS:
        raise ValueError(f"constraint: expected one of {CONSTRAINTS}, got {constraint!r}")
    if z.dim() < 1:
        raise ValueError(f"{points}: expected shape (..., D), got a scalar")
    D = z.shape[-1]
    if w.dim() < 2 or w.shape[-1] != D:
        raise ValueError(f"w: expected shape (..., K, {D}), got {tuple(w.shape)}")
    K = w.shape[-2]
    if u.dim() < 2 or u.shape[-2:] != (K, D):
        raise ValueError(f"u: expected shape (..., {K}, {D}), got {tuple(u.shape)}")
    if b.dim() < 1 or b.shape[-1] != K:
        raise ValueError(f"b: expected shape (..., {K}), got {tuple(b.shape)}")
    if z.shape[:-1] == w.shape[:-2] == u.shape[:-2] == b.shape[:-1]:
        return
    try:
        torch.broadcast_shapes(z.shape[:-1], w.shape[:-2], u.shape[:-2], b.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"{points}, w, u, b: batch shapes do not broadcast, got {tuple(z.shape[:-1])}, "
            f"{tuple(w.shape[:-2])}, {tuple(u.shape[:-2])}, {tuple(b.shape[:-1])}"
        ) from None


def _check_kind(name: str, value: Tensor, points: str, z: Tensor) -> None:
    """A floating-point tensor of the points' dtype, on their device."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if not value.dtype.is_floating_point:
        raise TypeError(f"{name}: expected a floating-point tensor, got {value.dtype}")
    if value.dtype != z.dtype:
        raise TypeError(f"{name}: expected the dtype of {points}, {z.dtype}, got {value.dtype}")
    if value.device != z.device:
        raise ValueError(f"{name}: expected the device of {points}, {z.device}, got {value.device}")

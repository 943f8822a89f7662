"""Radial flows (Rezende & Mohamed 2015, arXiv 1505.05770, eq. 14 and appendix A.2).

With α_k = softplus(alpha_k), s_k = softplus(beta_k), β̂_k = s_k - α_k > -α_k and
r = ‖z_{k-1} - c_k‖:

    z_k    = z_{k-1} + β̂_k (z_{k-1} - c_k) / (α_k + r)
    ladj_k = (D - 1) log((r + s_k) / (r + α_k)) + log((r² + 2 α_k r + s_k α_k) / (r + α_k)²)

Written in s_k every logarithm is of positive sums, so nothing cancels. Distances to c_k change as
r' = r (r + s_k) / (r + α_k), a quadratic equation in r: the inverse has a closed form.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["radial_flow", "radial_flow_inverse"]

# α below it would make a layer's Jacobian at its centre, s/α, leave float32.
_LEAST_ALPHA = 1e-6


def radial_flow(
    z: Float[Tensor, "*#batch D"],
    centre: Float[Tensor, "*#params K D"],
    alpha: Float[Tensor, "*#params K"],
    beta: Float[Tensor, "*#params K"],
) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
    """Push z through K radial flows, which draw points towards a centre or away from it.

    Args:
        z: points, (..., D).
        centre: c, (..., K, D).
        alpha: unconstrained; softplus(alpha) is the width, (..., K).
        beta: unconstrained, (..., K). A layer is the identity where beta = alpha.

    Returns:
        z_K, (..., D), and Σ_k log|det ∂z_k/∂z_{k-1}|, (...), in nats.

    Source: "Variational Inference with Normalizing Flows", arXiv 1505.05770.

    Examples:
        >>> import torch
        >>> z, c, a, b = (torch.randn(*s).double() for s in ((5, 2), (3, 2), (3,), (3,)))
        >>> z_K, ladj = radial_flow(z, c, a, b)
        >>> torch.allclose(radial_flow_inverse(z_K, c, a, b)[0], z)
        True
    """
    width, s = _constrained(alpha, beta)
    distances = []
    layers = zip(centre.unbind(-2), width.unbind(-1), (s - width).unbind(-1), strict=True)
    for centre_k, width_k, beta_hat in layers:
        offset = z - centre_k
        r = _norm(offset)
        # The division first: a vector no longer than 1, whatever the parameters are.
        unit = offset / (width_k + r).unsqueeze(-1)
        z = z + beta_hat.unsqueeze(-1) * unit
        distances.append(r)
    return z, _ladj(z, distances, width, s)


def radial_flow_inverse(
    z_K: Float[Tensor, "*#batch D"],
    centre: Float[Tensor, "*#params K D"],
    alpha: Float[Tensor, "*#params K"],
    beta: Float[Tensor, "*#params K"],
) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
    """Pull z_K back through K radial flows: the exact inverse of :func:`radial_flow`.

    r = ½ (r' - s + √((r' - s)² + 4 α r')), in the form that does not cancel.

    Args:
        z_K: points, (..., D).
        centre: c, (..., K, D).
        alpha: unconstrained, (..., K).
        beta: unconstrained, (..., K).

    Returns:
        z, (..., D), and log|det ∂z/∂z_K| = -Σ_k ladj_k, (...), in nats.
    """
    width, s = _constrained(alpha, beta)
    z, distances = z_K, []
    for k in range(centre.shape[-2] - 1, -1, -1):
        offset = z - centre[..., k, :]
        a, s_k, far = width[..., k], s[..., k], _norm(offset)
        difference = far - s_k
        root = torch.hypot(difference, 2 * (a * far).sqrt())
        outside = difference > 0
        r = torch.where(
            outside,
            0.5 * (difference + root),
            2 * a * far / (root - torch.where(outside, 0.0, difference)),
        )
        z = centre[..., k, :] + offset * ((r + a) / (r + s_k)).unsqueeze(-1)
        distances.append(r)
    return z, -_ladj(z, distances[::-1], width, s)


def _constrained(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    # Both are bounded from below alike, so beta = alpha stays the identity.
    return softplus(alpha).clamp(min=_LEAST_ALPHA), softplus(beta).clamp(min=_LEAST_ALPHA)


def _norm(x: Tensor) -> Tensor:
    """‖x‖, without overflow of its squares, and with a gradient of 0, not NaN, at x = 0."""
    tiny = torch.finfo(x.dtype).tiny
    largest = x.detach().abs().amax(-1, keepdim=True).clamp(min=tiny)
    return (x / largest).square().sum(-1).clamp(min=tiny).sqrt() * largest.squeeze(-1)


def _ladj(z: Tensor, distances: list[Tensor], width: Tensor, s: Tensor) -> Tensor:
    """The K log-determinants at once."""
    if not distances:
        return z.new_zeros(z.shape[:-1])
    r = torch.stack(distances, -1)
    total = r + width
    across = (r + s).log() - total.log()
    # The quotient of the formula above in parts of at most 1 and s/(r + α): r² may overflow.
    near, far = width / total, r / total
    along = (far * (far + 2 * near) + near * (s / total)).log()
    return ((z.shape[-1] - 1) * across + along).sum(-1)

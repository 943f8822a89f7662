"""Radial flows (Rezende & Mohamed 2015, arXiv 1505.05770, eq. 14 and appendix A.2).

With α_k = softplus(alpha_k), s_k = softplus(beta_k), β̂_k = s_k - α_k > -α_k and
r = ‖z_{k-1} - c_k‖:

    z_k    = z_{k-1} + β̂_k (z_{k-1} - c_k) / (α_k + r)
    ladj_k = (D - 1) log((r + s_k) / (r + α_k)) + log((r² + 2 α_k r + s_k α_k) / (r + α_k)²)

Written in s_k every logarithm is of positive sums, so nothing cancels. Distances to c_k change as
r' = r (r + s_k) / (r + α_k), a quadratic equation in r: the inverse has a closed form.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from flowvae.flows.bijection import Bijection

__all__ = ["RadialTransform"]

# α below it would make a layer's Jacobian at its centre, s/α, leave float32.
_LEAST_ALPHA = 1e-6


class RadialTransform(Bijection):
    """K radial flows, which draw points towards a centre or away from it.

    The inverse has a closed form: r = ½ (r' - s + √((r' - s)² + 4 α r')), computed in the form that
    does not cancel.

    Args:
        centre: c, (..., K, D).
        alpha: unconstrained; softplus(alpha) is the width, (..., K).
        beta: unconstrained, (..., K). A layer is the identity where beta = alpha.

    Source: "Variational Inference with Normalizing Flows", arXiv 1505.05770.

    Examples:
        >>> import torch
        >>> z, c, a, b = (torch.randn(*s).double() for s in ((5, 2), (3, 2), (3,), (3,)))
        >>> flow = RadialTransform(c, a, b)
        >>> torch.allclose(flow.inv(flow(z)), z)
        True
    """

    layered: ClassVar = {"centre": 1, "alpha": 0, "beta": 0}

    def __init__(
        self,
        centre: Float[Tensor, "*#params K D"],
        alpha: Float[Tensor, "*#params K"],
        beta: Float[Tensor, "*#params K"],
    ) -> None:
        super().__init__()
        self.centre, self.alpha, self.beta = centre, alpha, beta

    def forward_and_ladj(
        self, z: Float[Tensor, "*#batch D"]
    ) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
        width, s = _constrained(self.alpha, self.beta)
        z, distances = self._expanded(z), []
        layers = zip(self.centre.unbind(-2), width.unbind(-1), (s - width).unbind(-1), strict=True)
        for centre, width_k, beta_hat in layers:
            offset = z - centre
            r = _norm(offset)
            # The division first: a vector no longer than 1, whatever the parameters are.
            unit = offset / (width_k + r).unsqueeze(-1)
            z = z + beta_hat.unsqueeze(-1) * unit
            distances.append(r)
        return z, _ladj(z, distances, width, s)

    def inverse_and_ladj(
        self, z_K: Float[Tensor, "*#batch D"]
    ) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
        width, s = _constrained(self.alpha, self.beta)
        z, distances, tiny = self._expanded(z_K), [], torch.finfo(z_K.dtype).tiny
        for k in range(self.num_flows - 1, -1, -1):
            centre, a, s_k = self.centre[..., k, :], width[..., k], s[..., k]
            offset = z - centre
            far = _norm(offset)
            difference = far - s_k
            # Not at zero, where the root's derivative is infinite.
            root = torch.hypot(difference, 2 * (a * far.clamp(min=tiny)).sqrt())
            outside = difference > 0
            r = torch.where(
                outside,
                0.5 * (difference + root),
                2 * a * far / (root - torch.where(outside, 0.0, difference)),
            )
            z = centre + offset * ((r + a) / (r + s_k)).unsqueeze(-1)
            distances.append(r)
        return z, -_ladj(z, distances[::-1], width, s)

    def _expanded(self, z: Tensor) -> Tensor:
        batches = (
            z.shape[:-1],
            self.centre.shape[:-2],
            self.alpha.shape[:-1],
            self.beta.shape[:-1],
        )
        return z.expand(*torch.broadcast_shapes(*batches), z.shape[-1])


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

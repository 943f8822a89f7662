"""log p(x, z) on a grid of z, and from it log p(x) by quadrature: the truth at D ≤ 2."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.vae import VAE

__all__ = ["grid_log_joint", "grid_log_prob", "uniform_grid"]


def uniform_grid(
    low: Float[Tensor, " D"], high: Float[Tensor, " D"], points: int
) -> tuple[Float[Tensor, "G D"], float]:
    """Midpoints of ``points`` equal cells along each axis of the box, (points^D, D), and the log of
    a cell's volume. The first axis varies slowest.
    """
    width = (high - low) / points
    axes = [
        low[d] + width[d] * (torch.arange(points, dtype=low.dtype, device=low.device) + 0.5)
        for d in range(len(low))
    ]
    return torch.cartesian_prod(*axes).reshape(-1, len(low)), width.log().sum().item()


@torch.no_grad()
def grid_log_joint(
    model: VAE, x: Float[Tensor, "B P"], z: Float[Tensor, "G D"], chunk: int | None = None
) -> Float[Tensor, "B G"]:
    """Log p(x, z) = log p(x|z) + log p(z) for every x at every z, in nats.

    ``chunk`` z are decoded at once, :meth:`VAE.draws_at_once` if not given.
    """
    x = model.flatten(x)
    chunk = chunk or model.draws_at_once()
    # Written in place: small results kept between large tensors break up the heap.
    found = x.new_empty(len(x), len(z))
    for start in range(0, len(z), chunk):
        some = slice(start, start + chunk)
        found[:, some] = model.log_joint_pairs(x, z[some])
    return found


def grid_log_prob(
    model: VAE, x: Float[Tensor, "B P"], low: Tensor, high: Tensor, points: int
) -> Float[Tensor, " B"]:
    """Log p(x) = log ∫ p(x, z) dz over the box [low, high] by the midpoint rule, in nats.

    For an integrand that vanishes at the box's faces the error falls faster than any power of the
    cell's width if it is smooth, and like its square where the decoder has kinks (relu), once
    cells are smaller than its narrowest width; the caller chooses box and points so. A box that
    cuts mass off gives a lower value. Cost grows like points^D: meant for D ≤ 2.

    Examples:
        >>> import torch
        >>> from flowvae import build_vae, preset
        >>> model = build_vae(preset("original"), data_shape=(6, 5))
        >>> box = torch.full((2,), 7.0)
        >>> grid_log_prob(model, torch.rand(4, 30), -box, box, points=100).shape
        torch.Size([4])
    """
    z, log_volume = uniform_grid(low, high, points)
    return grid_log_joint(model, x, z).logsumexp(-1) + log_volume

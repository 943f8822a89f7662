"""The signature picture: how the flows bend q₀ towards the true posterior (D = 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from flowvae.distributions import FlowDistribution
from flowvae.evaluation import grid_log_joint, uniform_grid
from flowvae.figures.images import _channels_last, is_image, visible
from flowvae.figures.style import DENSITY, new_figure
from flowvae.refined import RefinedVAE
from flowvae.vae import VAE

__all__ = [
    "chosen_layers",
    "mesh_density",
    "posterior_panels",
    "square_around",
    "true_posterior",
]

_MOST_LAYERS = 16
_MESH, _REACH = (
    161,
    4.0,
)  # vertices along an axis of q₀'s mesh, and its reach in standard deviations
_COARSE, _PRIOR_REACH = 301, 6.0  # the first look for the true posterior's mass
_FINE = 241
_SAMPLES = 2000
_OUTLINES = (0.1, 0.6)  # of the truth, as parts of its peak


class _Truth(NamedTuple):
    z: Tensor  # (n, n, 2), a square grid
    density: Tensor  # (n, n), relative to its peak
    log_prob: float


@torch.no_grad()
def posterior_panels(model: VAE, x: Tensor, columns: int = 7) -> Figure:
    """Draw for each x: the datum, q₀, the density of every z_k, the refined and the true posterior.

    The density of z_k is drawn exactly: a mesh over q₀ is pushed through the first k flows and
    coloured by q₀(z₀) / |det|. The truth p(z|x) ∝ p(x|z) p(z) is computed on a grid, as is
    log p(x), from which the last panel of q has its KL(q_K ‖ p(z|x)) = log p(x) - ELBO in nats.
    Between q_K and the truth is q after some steps of :meth:`VAE.refine`. Each panel's colour runs
    from 0 to its own peak, and its window follows the density (see the ticks); the last three share
    one window, and the truth is outlined over both q in white. More than 16 flows are shown at 16
    of them.

    Args:
        model: with D = 2 and a flow posterior (K = 0 shows q₀ alone).
        x: a few data, (B, P), or rows (B, P + C) with their condition.
        columns: panels in a row.
    """
    layers = chosen_layers(_flow_posterior(model, x).num_flows)
    panels = len(layers) + 3
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure = new_figure(1.75 * columns, 1.95 * rows * len(x) + 0.4)
    blocks = np.atleast_1d(np.asarray(figure.subfigures(len(x), 1)))
    for block, datum in zip(blocks, x, strict=True):
        axes = block.subplots(rows, columns, squeeze=False).flat
        _one_datum(model, datum[None], layers, list(axes))
    figure.suptitle(
        "From $q_0$ through the flows to $q_K$ (white: the true posterior), $q$ refined, the truth"
    )
    return figure


def _one_datum(model: VAE, x: Tensor, layers: Sequence[int], axes: Sequence[Axes]) -> None:
    q = _flow_posterior(model, x)
    meshes = [mesh_density(q.first(k)) for k in layers]
    truth = true_posterior(model, x, meshes[-1])
    refined = RefinedVAE(model)
    gaps = [
        truth.log_prob - each.elbo(x, _SAMPLES, torch.Generator(x.device).manual_seed(0)).item()
        for each in (model, refined)
    ]
    fitted = refined.posterior(x).log_prob(truth.z.reshape(-1, 1, 2)).reshape(_FINE, _FINE).exp()

    for panel in axes:
        panel.set_axis_off()
    if is_image(model.data_shape):
        values = model.parts(x)[0].cpu().numpy()
        image = _channels_last(values.reshape(1, *model.data_shape))[0]
        axes[0].imshow(visible(image), cmap="gray", vmin=0, vmax=1)
    axes[0].set_title("x", fontsize=9)
    for panel, k, (z, density) in zip(axes[1:], layers, meshes, strict=False):
        _window(panel, *square_around(_where_dense(z, density)))
        panel.pcolormesh(
            *z.cpu().numpy().transpose(2, 0, 1),
            (density / density.max()).cpu().numpy(),
            shading="gouraud",
            cmap=DENSITY,
            vmin=0,
            vmax=1,
        )
        panel.set_title(f"$z_{{{k}}}$" if k else "$q_0$", fontsize=9)

    # The last three share a window, and the truth's outline lies over q.
    last, better, beside = axes[len(layers) : len(layers) + 3]
    shared = torch.cat([_where_dense(*meshes[-1]), _where_dense(truth.z, truth.density)])
    z_1, z_2 = truth.z.cpu().numpy().transpose(2, 0, 1)
    true_density = truth.density.cpu().numpy()
    for panel in (last, better, beside):
        _window(panel, *square_around(shared))
    for panel, density in ((better, fitted / fitted.max()), (beside, truth.density)):
        values = density.cpu().numpy()
        panel.pcolormesh(z_1, z_2, values, shading="gouraud", cmap=DENSITY, vmin=0, vmax=1)
    for panel in (last, better):
        panel.contour(z_1, z_2, true_density, levels=_OUTLINES, colors="white", linewidths=0.8)
    names = (f"$q_{{{layers[-1]}}}$", "refined")
    for panel, name, gap in zip((last, better), names, gaps, strict=True):
        panel.set_title(f"{name}: KL {max(gap, 0.0):.2f} nats", fontsize=9)
    beside.set_title("true p(z|x)", fontsize=9)


def _flow_posterior(model: VAE, x: Tensor) -> FlowDistribution:
    q = model.posterior(x)
    if not isinstance(q, FlowDistribution) or model.latent_dim != 2:
        raise ValueError(
            f"model: expected a flow posterior with D = 2, got {type(q).__name__} with "
            f"D = {model.latent_dim}"
        )
    return q


def chosen_layers(num_flows: int) -> list[int]:
    """The numbers k of flows to show: all from 0 to K, or 17 of them."""
    if num_flows <= _MOST_LAYERS:
        return list(range(num_flows + 1))
    return [0, *np.linspace(1, num_flows, _MOST_LAYERS).round().astype(int).tolist()]


def mesh_density(q: FlowDistribution, vertices: int = _MESH) -> tuple[Tensor, Tensor]:
    """A mesh over q₀ pushed through q's flows, (n, n, 2), and q's density there, (n, n)."""
    axis = torch.linspace(-_REACH, _REACH, vertices).to(q.base.loc)
    eps = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    z_0 = q.base.loc + q.base.variance.sqrt() * eps
    z, ladj = q.flow(z_0)
    density = (q.base.log_prob(z_0) - ladj).exp()
    return z.reshape(vertices, vertices, 2), density.reshape(vertices, vertices)


def true_posterior(model: VAE, x: Tensor, mesh: tuple[Tensor, Tensor]) -> _Truth:
    """p(z|x) on a square that holds its mass and q's; log p(x) by the midpoint rule there."""
    reach = torch.full((2,), _PRIOR_REACH).to(mesh[0])
    z, _ = uniform_grid(-reach, reach, _COARSE)
    log_joint = grid_log_joint(model, x, z)[0]
    near = z[log_joint > log_joint.max() - 8.0]
    cell = 2 * _PRIOR_REACH / _COARSE
    low, high = square_around(torch.cat([near - cell, near + cell, _where_dense(*mesh)]))
    z, log_volume = uniform_grid(low, high, _FINE)
    log_joint = grid_log_joint(model, x, z)[0]
    density = (log_joint - log_joint.max()).exp()
    log_prob = log_joint.logsumexp(0).item() + log_volume
    return _Truth(z.reshape(_FINE, _FINE, 2), density.reshape(_FINE, _FINE), log_prob)


def _where_dense(z: Tensor, density: Tensor) -> Tensor:
    return z[density > 0.01 * density.max()]


def square_around(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Corners of a square around the points, a little larger: no direction is squeezed."""
    low, high = inside.min(0).values, inside.max(0).values
    centre, half = (low + high) / 2, 0.55 * (high - low).max()
    return centre - half, centre + half


def _window(panel: Axes, low: Tensor, high: Tensor) -> None:
    panel.set_axis_on()
    (left, bottom), (right, top) = low.tolist(), high.tolist()
    panel.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    panel.set_facecolor(colormaps[DENSITY](0.0))
    panel.tick_params(labelsize=6, length=2)
    panel.locator_params(nbins=3)

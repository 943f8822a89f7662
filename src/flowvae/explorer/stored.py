"""What is kept of a model that the page does not compute: its answers for some test data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowvae.data.columns import Column
from flowvae.data.conditions import class_rows, classes_of
from flowvae.distributions import FlowDistribution, LatentDistribution
from flowvae.evaluation import quadrature, uniform_grid
from flowvae.explorer.arrays import Arrays
from flowvae.figures.posterior import chosen_layers, square_around
from flowvae.outputs import decoded_means
from flowvae.refined import RefinedVAE
from flowvae.vae import VAE

__all__ = ["chosen_classes", "stored_answers"]

_MESH, _REACH = 33, 4.0
_CELLS = 64  # along a side of a picture
_SEEN = -7.0  # log of the part of the peak that a picture is to hold
_NOTHING = -80.0
_LIMITS: dict[str, Any] = {"tolerance": 2e-3, "most_cells": 2**14}
_DRAWS = 1000
_BOUND_DRAWS = 512
_PRIOR_DRAWS = 10
_DECODED_BYTES, _TRAVERSAL_BYTES = 1_500_000, 3_000_000
_MOST_DIRECTIONS = 6
_MOST_LAYERS = 8
_MOST_CLASSES = 30  # that a person can choose among

Span = tuple[float, float] | None  # the range of an image's values


def chosen_classes(condition: Sequence[Column]) -> Tensor | None:
    """The conditions (K, C) under which everything decoded is stored; none if they are no classes,
    or too many: all is then under the condition of the datum that is shown.
    """
    classes = classes_of(condition)
    return None if classes is None or len(classes) > _MOST_CLASSES else class_rows(condition)


def stored_answers(
    model: VAE,
    rows: Tensor,
    means: Tensor,
    directions: dict[str, Any],
    box: tuple[Tensor, Tensor],
    span: Span,
    arrays: Arrays,
) -> dict[str, Any]:
    """Posteriors, reconstructions, traversals and figures of data in rows (N, P + C).

    ``span`` is the range of an image's values, none of other data. Reconstructions (N, K, P), draws
    of the prior (K, n, P) and what the plane decodes to (K, cells, P) are under each of K classes;
    traversals are under the datum's own condition. Without classes K is 1.
    """
    _, own = model.parts(rows)
    classes = None if model.condition is None else chosen_classes(model.condition)
    classes = None if classes is None else classes.to(rows)
    every = None if own is None else own[:, None] if classes is None else classes
    reconstructions = decoded_means(model, means[:, None].expand(-1, _count(classes), -1), every)
    prior = _prior(model, own, classes)
    found: dict[str, Any] = {
        "layers": [0],
        "num_flows": 0,
        "classes": _count(classes),
        "reconstructions": {"array": arrays.add_shown(reconstructions, span)},
        "prior": {"array": arrays.add_shown(prior, span), "count": prior.shape[1]},
        "traversals": _traversals(model, means, own, directions, span, arrays),
    }
    if model.latent_dim == 2:
        found |= _planes(model, rows, arrays)
        if own is None or classes is not None:
            found["decoded"] = _decoded(model, box, classes, span, arrays)
    else:
        found["numbers"] = _bounds(model, rows)
    return found


def _count(classes: Tensor | None) -> int:
    return 1 if classes is None else len(classes)


def _prior(model: VAE, own: Tensor | None, classes: Tensor | None) -> Tensor:
    """Decoded draws under each class, or under the conditions of the data in turn, (K, n, P)."""
    device, n = next(model.parameters()).device, _PRIOR_DRAWS

    def under(condition: Tensor | None) -> Tensor:
        return model.sample(n, torch.Generator(device).manual_seed(0), condition=condition)

    if classes is not None:
        return torch.stack([under(row[None]) for row in classes])
    return under(None if own is None else own[torch.arange(n) % len(own)])[None]


def _bounds(model: VAE, x: Tensor) -> list[dict[str, float]]:
    def generator() -> torch.Generator:
        return torch.Generator(x.device).manual_seed(0)

    elbo = model.elbo(x, _BOUND_DRAWS, generator()).tolist()
    bound = model.iw_bound(x, _BOUND_DRAWS, generator()).tolist()
    return [
        {"elbo": one, "bound": other, "draws": _BOUND_DRAWS}
        for one, other in zip(elbo, bound, strict=True)
    ]


def _traversals(
    model: VAE,
    means: Tensor,
    own: Tensor | None,
    directions: dict[str, Any],
    span: Span,
    arrays: Arrays,
) -> dict[str, Any]:
    each = len(means) * len(directions["steps"]) * model.data_dim * (4 if span is None else 1)
    count = max(1, min(_MOST_DIRECTIONS, _TRAVERSAL_BYTES // each))
    vectors = directions["vectors"][:count].to(means)
    scales = torch.tensor(directions["scales"][:count]).to(means)
    steps = torch.tensor(directions["steps"]).to(means)
    moves = (scales[:, None] * vectors)[:, None] * steps[:, None]  # (directions, steps, D)
    z = means[:, None, None] + moves
    values = decoded_means(model, z, None if own is None else own[:, None, None])
    return {
        "array": arrays.add_shown(values, span),
        "names": directions["names"][:count],
    }


def _decoded(
    model: VAE,
    box: tuple[Tensor, Tensor],
    classes: Tensor | None,
    span: Span,
    arrays: Arrays,
) -> dict[str, Any]:
    """E[x|z] over the inner half of the box: where prior and data lie."""
    low, high = box
    low, high = low + (high - low) / 4, high - (high - low) / 4
    each = model.data_dim * (4 if span is None else 1) * _count(classes)
    side = max(4, min(32, int((_DECODED_BYTES / each) ** 0.5)))
    axes = [low[i] + (high[i] - low[i]) * (torch.arange(side) + 0.5).to(low) / side for i in (0, 1)]
    z = torch.cartesian_prod(*axes).expand(_count(classes), -1, -1)
    values = decoded_means(model, z, None if classes is None else classes[:, None])
    return {
        "array": arrays.add_shown(values, span),
        "side": side,
        "low": low.tolist(),
        "high": high.tolist(),
    }


def _planes(model: VAE, x: Tensor, arrays: Arrays) -> dict[str, Any]:
    q = model.posterior(x)
    K = q.num_flows if isinstance(q, FlowDistribution) else 0
    layers = chosen_layers(K)
    layers = layers[:: -(-len(layers) // _MOST_LAYERS)]
    layers = layers if layers[-1] == K else [*layers, K]
    draws = q.rsample((_DRAWS,), torch.Generator(x.device).manual_seed(0)).transpose(0, 1)
    found: dict[str, Any] = {
        "num_flows": K,
        "layers": layers,
        "draws": {"array": arrays.add(draws), "shape": [_DRAWS, 2]},
    }
    mesh = _mesh(q, layers)
    if mesh is not None:
        z, log_q = mesh
        found |= {
            "mesh_side": _MESH,
            "mesh_z": {"array": arrays.add(z), "shape": list(z.shape[1:])},
            "mesh_log_q": {"array": arrays.add(log_q), "shape": list(log_q.shape[1:])},
        }
    last = draws if mesh is None else mesh[0][:, -1]
    density = torch.ones_like(last[..., 0]) if mesh is None else mesh[1][:, -1].exp()
    return found | _truths(model, x, last, density, arrays)


def _mesh(q: LatentDistribution, layers: list[int]) -> tuple[Tensor, Tensor] | None:
    """z (N, L, M, M, 2) and log q (N, L, M, M) after each of some layers."""
    N = q.batch_shape[0]
    axis = torch.linspace(-_REACH, _REACH, _MESH)
    eps = torch.cartesian_prod(axis, axis)[:, None].expand(-1, N, -1)
    found = []
    for k in layers:
        part = q.first(k) if isinstance(q, FlowDistribution) else q
        try:
            z, log_base, ladj = part.at_noise(eps.to(q.rsample().device))
        except NotImplementedError:
            return None
        found.append((z.transpose(0, 1), (log_base - ladj).T))
    z, log_q = (torch.stack(each, 1) for each in zip(*found, strict=True))
    shape = (N, len(layers), _MESH, _MESH)
    return z.reshape(*shape, 2), log_q.reshape(shape)


def _truths(model: VAE, x: Tensor, last: Tensor, density: Tensor, arrays: Arrays) -> dict[str, Any]:
    """p(z|x) and the refined q on a window each, and the figures of quadrature."""
    refined = RefinedVAE(model)
    better = refined.posterior(x)
    exact = quadrature(model, x, keep=True, **_LIMITS)
    after = quadrature(refined, x, **_LIMITS)
    assert exact.posterior is not None  # noqa: S101
    pictures, fitted, windows = [], [], []
    for n, (cells, log_p, _) in enumerate(exact.posterior):
        seen = [cells[log_p > log_p.max() + _SEEN], last[n][density[n] > 0.01 * density[n].max()]]
        low, high = square_around(torch.cat([part.reshape(-1, 2) for part in seen]))
        z, _ = uniform_grid(low, high, _CELLS)
        windows.append(torch.cat([low, high]))
        pictures.append(_picture(cells, log_p - log_p.max(), z))
        log_q = better.log_prob(z[:, None].expand(-1, len(x), -1))[:, n]
        fitted.append((log_q - log_q.max()).clamp(min=_NOTHING))
    numbers = []
    for n in range(len(x)):
        kl = None if exact.kl is None else exact.kl[n].item()
        log_prob = exact.log_prob[n].item()
        numbers.append(
            {
                "logProb": log_prob,
                "kl": kl,
                "elbo": None if kl is None else log_prob - kl,
                "refinedKl": None if after.kl is None else after.kl[n].item(),
            }
        )
    shape = [_CELLS, _CELLS]
    return {
        "truth_side": _CELLS,
        "truth": {"array": arrays.add(torch.stack(pictures)), "shape": shape},
        "refined": {"array": arrays.add(torch.stack(fitted)), "shape": shape},
        "window": {"array": arrays.add(torch.stack(windows)), "shape": [4]},
        "numbers": numbers,
    }


def _picture(cells: Tensor, log_p: Tensor, z: Tensor) -> Tensor:
    """Log-densities at places z (G, 2) by the cells of a quadrature that hold them."""
    # All cells are of one level: neighbours are one width apart.
    width = torch.stack([cells[:, i].unique().diff().min() for i in (0, 1)])
    first = cells.amin(0)
    place = ((cells - first) / width).round().long()
    side = place.amax(0) + 1
    values = log_p.new_full(tuple(side.tolist()), _NOTHING)
    values[place[:, 0], place[:, 1]] = log_p.clamp(min=_NOTHING)
    asked = ((z - first) / width).round().long()
    inside = ((asked >= 0) & (asked < side)).all(-1)
    asked = asked.clamp(min=torch.zeros_like(side), max=side - 1)
    return torch.where(inside, values[asked[:, 0], asked[:, 1]], _NOTHING)

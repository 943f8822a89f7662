"""log p(x), p(z|x) and KL(q ‖ p(z|x)) by adaptive quadrature: the truth, where D ≤ 2.

Each datum has a grid of its own. A coarse look at the whole box finds the cells where p(x, z) is
within e^-c of its peak; these, and the cells that q's own draws fall in, are halved along every
axis until two levels of the midpoint rule agree within the tolerance and the mass is spread over
enough cells to be resolved. For a smooth density that has died away at the edges of what is kept,
the rule's error falls faster than any power of the cell's width; at the kinks of a relu decoder,
like its square.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.distributions import LatentDistribution
from flowvae.evaluation.estimates import ignore
from flowvae.evaluation.grid import grid_log_joint
from flowvae.vae import VAE

__all__ = ["Quadrature", "latent_box", "quadrature"]

_COARSE = {1: 1024, 2: 128}  # cells along an axis in the first look at p(x, z), by D
_COARSE_Q = {1: 256, 2: 32}  # and at q, which also has its own draws
_COARSE_NOISE, _REACH = 13, 6.5  # and at ε ~ N(0, I): cells of width 1, to 6.5 deviations
_FIRST_CUTOFF = 30.0  # nats below the peak that a coarse cell may lie, neighbours counted
_CUTOFF = 22.0  # and a finer one: what is left out is e^-22 of the peak
_RESOLVED = 12.0  # cells of equal mass that a resolved density fills at least, 4π σ²/h² at D = 2
_BATCH = 128
_FINEST = 2**22  # cells along an axis: float32 tells no finer ones apart
_SEEDS = 64


@dataclass(frozen=True)
class Quadrature:
    """What :func:`quadrature` found, (B,) each, float64, on the CPU, in nats.

    Args:
        log_prob: log p(x).
        error: how far the last two levels of the grid differ; the error is smaller as a rule.
        kl: KL(q(z|x) ‖ p(z|x)), without sampling; none where q has no density at given z.
        kl_error: likewise, and not below |log ∫ q dz|, which should be zero.
        points: evaluations of p(x, z) beyond the coarse look.
        posterior: for each datum z (G, D) and log p(z|x) (G,) on cells of volume
            ``exp(log_volume)``, where they were kept.
    """

    log_prob: Tensor
    error: Tensor
    kl: Tensor | None
    kl_error: Tensor | None
    points: Tensor
    posterior: list[tuple[Tensor, Tensor, float]] | None = None


# Points z (n, D) and the datum each belongs to -> the log-density to integrate, and a value to
# average under it.
_Integrand = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def quadrature(
    model: VAE,
    x: Float[Tensor, "B P"],
    *,
    tolerance: float = 1e-3,
    most_cells: int = 2**19,
    keep: bool = False,
    advance: Callable[[int], None] = ignore,
) -> Quadrature:
    """Integrate p(x, z) over z, and log q - log p(z|x) under q, for every datum.

    Args:
        model: with D ≤ 2, in evaluation mode.
        x: the data, (B, P).
        tolerance: two levels of the grid must agree so well, in nats.
        most_cells: of a datum on one level; what has not settled then is given with its error.
        keep: also give p(z|x) on its grid.
        advance: called with the number of data done since the last call.

    Raises:
        ValueError: D > 2, or tolerance out of range.
        ArithmeticError: p(x, z) is NaN, or zero everywhere.

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5)).eval()
        >>> x = torch.rand(3, 30)
        >>> found = quadrature(model, x)
        >>> elbo = model.elbo(x, 4000).detach().double()
        >>> torch.allclose(elbo + found.kl, found.log_prob, atol=0.1)
        True
    """
    if model.latent_dim not in _COARSE:
        raise ValueError(f"model: expected D ≤ 2 for quadrature, got {model.latent_dim}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance: expected a number in (0, 1), got {tolerance}")
    x = model.flatten(x)
    parts = []
    for part in x.split(_BATCH):
        parts.append(_one_batch(model, part, _Limits(tolerance, most_cells), keep))
        advance(len(part))
    columns = [
        None if any(c is None for c in column) else torch.cat(column)
        for column in zip(*(part[:5] for part in parts), strict=True)
    ]
    posteriors = [one for part in parts for one in part[5]] if keep else None
    return Quadrature(*columns, posterior=posteriors)  # pyright: ignore[reportArgumentType]


class _Limits(NamedTuple):
    tolerance: float
    most_cells: int


def _one_batch(model: VAE, x: Tensor, limits: _Limits, keep: bool):
    q = model.posterior(x)
    drawn = q.rsample((_SEEDS,), torch.Generator(x.device).manual_seed(0))  # (seeds, B, D)
    low, high = latent_box(model, x, drawn)

    def joint(z: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return _log_joint(model, x, z, index), z.new_zeros(len(z))

    grid = _Grid(low, high, _COARSE[model.latent_dim])
    seen = grid_log_joint(model, x, grid.all_centres())
    evidence = _refine(joint, grid, seen, drawn, 0.0, limits, keep)
    log_prob, error, _, points, kept = evidence

    kl = _kl(model, x, q, drawn, (low, high), limits)
    if kl is None:
        return log_prob, error, None, None, points, kept
    mean, differs, more = kl
    return log_prob, error, mean + log_prob, torch.maximum(differs, error), points + more, kept


def _kl(
    model: VAE,
    x: Tensor,
    q: LatentDistribution,
    drawn: Tensor,
    box: tuple[Tensor, Tensor],
    limits: _Limits,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """E_q[log q(z|x) - log p(x, z)], its error and the points used, (B,) each.

    Over the noise ε that z is made from where q says how, else over z by q's density there.
    """
    B, D = len(x), model.latent_dim

    def over_noise(eps: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        row, shape = _rows(index, B)
        sample = q.at_noise(eps[:1].expand(*shape, D).clone().index_put_((row, index), eps))
        log_q = (sample.log_base - sample.ladj)[row, index]
        log_normal = -0.5 * (eps.square() + math.log(2 * math.pi)).sum(-1)
        return log_normal, log_q - _log_joint(model, x, sample.z[row, index], index)

    def over_z(z: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        row, shape = _rows(index, B)
        padded = z[:1].expand(*shape, D).clone().index_put_((row, index), z)
        log_q = q.log_prob(padded)[row, index]
        return log_q, log_q - _log_joint(model, x, z, index)

    try:
        q.at_noise(torch.zeros_like(drawn[0]))
        reach = torch.full_like(drawn[0, 0], _REACH)
        grid, integrand = _Grid(-reach, reach, _COARSE_NOISE), over_noise
        eps = grid.all_centres()
        seen = -0.5 * (eps.square() + math.log(2 * math.pi)).sum(-1).expand(B, -1)
        drawn = torch.zeros_like(drawn)
    except NotImplementedError:
        grid, integrand = _Grid(*box, _COARSE_Q[D]), over_z
        try:
            seen = q.log_prob(grid.all_centres()[:, None]).T
        except NotImplementedError:
            return None
    mass, differs, mean, points, _ = _refine(integrand, grid, seen, drawn, math.nan, limits, False)
    return mean, torch.maximum(differs, mass.abs()), points


@dataclass(frozen=True)
class _Grid:
    """Equal cells over a box: integers along each axis, from its lower corner."""

    low: Tensor
    high: Tensor
    count: int

    @property
    def width(self) -> Tensor:
        return (self.high - self.low) / self.count

    def centres(self, cells: Tensor) -> Tensor:
        return self.low + self.width * (cells.to(self.low.dtype) + 0.5)

    def containing(self, z: Tensor) -> Tensor:
        return ((z - self.low) / self.width).floor().long().clamp(0, self.count - 1)

    def all_cells(self) -> Tensor:
        D = len(self.low)
        axis = torch.arange(self.count, device=self.low.device)
        return torch.cartesian_prod(*[axis] * D).reshape(-1, D)

    def all_centres(self) -> Tensor:
        return self.centres(self.all_cells())

    def halved(self) -> _Grid:
        return _Grid(self.low, self.high, 2 * self.count)


def latent_box(model: VAE, x: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Corners of a box that holds p(z|x): draws of the prior and of q, (..., B, D), and half their
    extent more on each side.
    """
    generator = torch.Generator(drawn.device).manual_seed(0)
    both = torch.cat([model.prior_draws(x, 4096, generator), drawn.flatten(0, 1)])
    low, high = both.min(0).values, both.max(0).values
    return low - 0.5 * (high - low), high + 0.5 * (high - low)


def _refine(
    integrand: _Integrand,
    grid: _Grid,
    seen: Tensor,
    drawn: Tensor,
    start: float,
    limits: _Limits,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[tuple[Tensor, Tensor, float]]]:
    """Halve the cells that matter until each datum's integral and mean value stand still.

    Returns log ∫ f, how far the last two levels differ, the mean value under f, and the points
    used; (B,) each. ``seen`` is log f on the whole coarse grid, (B, G), ``start`` the mean there.
    """
    B, D = len(seen), len(grid.low)
    index, cells = _first_cells(grid, seen, drawn)
    # log ∫ f and the mean value, on the level before; a value is not known on the coarse grid.
    first = seen.cpu().double().logsumexp(1) + grid.width.cpu().double().log().sum()
    last = torch.stack([first, torch.full_like(first, start)])
    result = torch.full((4, B), math.nan, dtype=torch.float64)  # log ∫ f, difference, mean, points
    result[3] = 0
    kept: list[tuple[Tensor, Tensor, float]] = [(cells[:0], seen[0, :0], 0.0)] * (B if keep else 0)
    pending = torch.ones(B, dtype=torch.bool)
    corners = torch.cartesian_prod(*[torch.arange(2, device=cells.device)] * D).reshape(-1, D)
    while len(index):
        grid = grid.halved()
        index = index.repeat_interleave(len(corners))
        cells = (2 * cells[:, None] + corners).flatten(0, 1)
        log_f, value = integrand(grid.centres(cells), index)
        log_volume = grid.width.cpu().double().log().sum().item()
        peak, log_total, mean, spread, count = _sums(log_f, value, index, B)
        log_total = log_total + log_volume
        now = torch.stack([log_total, mean]).cpu()
        differs = (now - last).abs().amax(0)
        result[3] += count.cpu()
        done = (differs < limits.tolerance) & (spread.cpu() >= _RESOLVED) & (count.cpu() > 0)
        done |= (count.cpu() > limits.most_cells) | (grid.count >= _FINEST)
        done &= pending  # what was finished before has no cells any more, so no numbers
        pending &= ~done
        differs = differs.nan_to_num(math.inf)  # there was no level before
        result[:3, done] = torch.stack([now[0], differs, now[1]])[:, done]
        for b in done.nonzero().flatten().tolist() if keep else ():
            own = index == b
            kept[b] = (grid.centres(cells[own]), log_f[own] - log_total[b], log_volume)
        last = now
        matters = (log_f > peak[index] - _CUTOFF) & ~done.to(index.device)[index]
        index, cells = index[matters], cells[matters]
    if result.isnan().any():
        raise ArithmeticError("quadrature: the density is NaN or zero everywhere")
    return result[0], result[1], result[2], result[3], kept


def _first_cells(grid: _Grid, seen: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Coarse cells that matter: near the peak, beside such a cell, or drawn by q."""
    B, D = len(seen), len(grid.low)
    image = seen.reshape(B, 1, *[grid.count] * D)
    pool = {1: torch.nn.functional.max_pool1d, 2: torch.nn.functional.max_pool2d}[D]
    near = pool(image, 3, stride=1, padding=1).reshape(B, -1)
    matters = near > seen.amax(1, keepdim=True) - _FIRST_CUTOFF
    cells = grid.containing(drawn)  # (seeds, B, D)
    flat = cells[..., 0] if D == 1 else cells[..., 0] * grid.count + cells[..., 1]
    matters[torch.arange(B, device=seen.device).expand_as(flat), flat] = True
    index, flat = matters.nonzero().unbind(1)
    return index, grid.all_cells()[flat]


def _sums(
    log_f: Tensor, value: Tensor, index: Tensor, B: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """By datum: the peak of log f, log Σ f, the mean value, cells of equal mass, cells."""
    peak = log_f.new_full((B,), -math.inf).scatter_reduce_(0, index, log_f, "amax")
    wide = log_f.device.type != "mps"
    f = (log_f - peak[index]).exp()
    f, value = (f.double(), value.double()) if wide else (f, value)

    def by_datum(each: Tensor) -> Tensor:
        return each.new_zeros(B).index_add_(0, index, each)

    total = by_datum(f)
    log_total = peak.to(total) + total.log()
    mean = by_datum(f * value) / total
    return (
        peak,
        log_total,
        mean,
        total.square() / by_datum(f.square()),
        by_datum(torch.ones_like(f)),
    )


def _log_joint(model: VAE, x: Tensor, z: Tensor, index: Tensor) -> Tensor:
    """Log p(x_n, z_n), (N,), for pairs of z (N, D) and the datum each belongs to."""
    at_once = model.draws_at_once()
    found = x.new_empty(len(z))
    for start in range(0, len(z), at_once):
        some = slice(start, start + at_once)
        found[some] = model.log_joint(x[index[some]], z[some])
    return found


def _rows(index: Tensor, B: int) -> tuple[Tensor, tuple[int, int]]:
    """For points sorted by datum, the row of each in a table (M, B), and that table's shape."""
    count = torch.bincount(index, minlength=B)
    first = count.cumsum(0) - count
    row = torch.arange(len(index), device=index.device) - first[index]
    return row, (int(count.max()), B)

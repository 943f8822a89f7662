"""What is missing of a datum, given what is there: its mean, draws and intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowvae.data.columns import encoded_slices
from flowvae.errors import UserError
from flowvae.evaluation.common_noise import common_draws
from flowvae.vae import VAE

__all__ = ["Imputation", "Imputed", "impute"]

# Beside (seed, row): which draws of that row the stream is for.
_DRAWS, _INTERVAL = 0, 1


@dataclass(frozen=True)
class Imputed:
    """What :func:`impute` found for data (N, P); values that were there are as they were.

    Args:
        mean: E[x_mis | x_obs], (N, P); of a binary number its probability, of a one-hot code the
            probabilities of the categories.
        missing: which values were missing, (N, P).
        effective_samples: 1 / Σ w̃_s² of each row, (N,), between 1 and S; NaN where nothing was
            missing. Where it is small, a few draws of z carry the answer: take more samples.
        draws: M draws from p(x_mis | x_obs), (M, N, P).
        low: lower ends of the intervals, (N, P); none if none were asked for.
        high: their upper ends.
    """

    mean: Tensor
    missing: Tensor
    effective_samples: Tensor
    draws: Tensor
    low: Tensor | None = None
    high: Tensor | None = None


@dataclass(frozen=True)
class Imputation:
    """What was found for data in its own units; values that were there are to the bit as they were.

    Args:
        filled: the data, means in place of what was missing, (N, ...).
        missing: which values were missing, (N, ...).
        effective_samples: of each row, (N,), see :class:`Imputed`.
        draws: M imputations, (M, N, ...).
        low: lower ends of the intervals, (N, ...), and the values that were there; none if none
            were asked for.
        high: their upper ends.
    """

    filled: np.ndarray
    missing: np.ndarray
    effective_samples: np.ndarray
    draws: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @classmethod
    def of(
        cls, found: Imputed, x: np.ndarray, decode: Callable[[Tensor], np.ndarray]
    ) -> Imputation:
        """What was found of x (N, ...), by what brings numbers (..., P) into its units."""
        missing = found.missing.cpu().numpy().reshape(x.shape)

        def whole(new: Tensor | None) -> Any:
            if new is None:
                return None
            numbers = decode(new).reshape(*new.shape[:-2], *x.shape)
            return np.where(missing, numbers.astype(x.dtype), x)

        return cls(
            whole(found.mean),
            missing,
            found.effective_samples.cpu().double().numpy(),
            *map(whole, (found.draws, found.low, found.high)),
        )


class _Weighted(NamedTuple):
    """Draws z (S, B, D), their weights w̃ (S, B), and Σ w̃ E[x|z], (B, P)."""

    z: Tensor
    weights: Tensor
    mean: Tensor


@torch.no_grad()
def impute(
    model: VAE,
    x: Tensor,
    *,
    samples: int = 500,
    draws: int = 0,
    interval: float | None = None,
    seed: int = 0,
    condition: Any = None,
    missing: Tensor | None = None,
) -> Imputed:
    """Fill in what is missing by importance sampling from q(z|x_obs) (MIWAE, arXiv 1812.02633).

    With z_s ~ q(z|x_obs), s = 1 … S, and w̃_s ∝ p(x_obs, z_s) / q(z_s|x_obs), Σ_s w̃_s = 1:

        E[x_mis | x_obs] ≈ Σ_s w̃_s E[x_mis | z_s].

    A draw takes one of the z_s, with probability w̃_s, and x_mis ~ p(x|z_s). An interval is between
    quantiles of S such draws. All of it is exact as S → ∞ for the model's own p(x_mis | x_obs),
    however good q is. Where the model says why values are missing (``missingness``), the weights
    are those of p(x_obs, s, z_s), s which values are there, and x_mis is given that it is missing.

    The noise of z is the same for every row, and that of the draws belongs to the row's number: an
    answer depends on the seed and the row, not on the other rows. Few z are decoded at once.

    Args:
        model: trained with ``missing=model``.
        x: data (N, P) or (N, *data_shape), NaN where a value is missing; a value of a categorical
            column is missing as a whole. Rows with nothing missing, and with nothing else, are
            good. Of a conditional model rows (N, P + C), or a ``condition`` beside them.
        samples: S.
        draws: M, how many imputations to draw.
        interval: share of the draws that lie in the intervals, such as 0.9; none if not given.
        seed: of all noise.
        condition: see :meth:`flowvae.VAE.rows`.
        missing: further values to take as missing, of the shape of x: for data without NaN.

    Raises:
        UserError: a value is missing and the model knows of none missing; a value is infinite;
            another shape; a number out of range.

    Examples:
        >>> import math, torch, flowvae
        >>> config = flowvae.Config(likelihood="gaussian", missing="model", hidden_dims=(8,))
        >>> model = flowvae.build_vae(config, data_shape=(4,))
        >>> x = torch.tensor([[0.5, math.nan, -1.0, math.nan], [0.1, 0.2, 0.3, 0.4]])
        >>> found = impute(model, x, draws=3, interval=0.9)
        >>> found.mean[0, [0, 2]].tolist(), found.draws.shape, found.missing.sum(1).tolist()
        ([0.5, -1.0], torch.Size([3, 2, 4]), [2, 0])
    """
    _check_numbers(samples, draws, interval)
    if missing is not None:
        x = _with_gaps(x, missing)
    rows = model.rows(x, condition)
    if rows.dim() != 2:
        raise UserError(f"x: expected data (N, P) or (N, *data_shape), got {tuple(x.shape)}")
    values, given = model.parts(rows)
    gaps = values.isnan()
    _check_values(model, values, gaps, given)
    like = next(model.parameters())
    values = values.to(like.device)
    gaps = gaps.to(like.device)
    found = Imputed(
        values.clone(),
        gaps,
        torch.full((len(values),), torch.nan, dtype=like.dtype, device=like.device),
        values.expand(draws, -1, -1).clone(),
        values.clone() if interval is not None else None,
        values.clone() if interval is not None else None,
    )
    chosen = gaps.any(1).nonzero().flatten()
    for index in chosen.split(model.draws_at_once(samples)):
        part = rows[index.to(rows.device)].to(like)
        weighted = _weigh(model, part, samples, seed)
        _check_found(weighted.mean, gaps[index], index)
        found.effective_samples[index] = 1 / weighted.weights.square().sum(0)
        _put(found.mean, index, gaps, weighted.mean)
        if draws or interval is not None:
            for place, row in enumerate(index.tolist()):
                _draw_row(model, found, weighted, (place, row), part[place], interval, seed)
    return found


def _check_numbers(samples: int, draws: int, interval: float | None) -> None:
    if samples < 1:
        raise UserError(f"samples: expected at least 1, got {samples}")
    if draws < 0:
        raise UserError(f"draws: expected at least 0, got {draws}")
    if interval is not None and not 0 < interval < 1:
        raise UserError(f"interval: expected a share between 0 and 1, got {interval}")


def _with_gaps(x: Tensor, missing: Tensor) -> Tensor:
    if missing.shape != x.shape or missing.dtype != torch.bool:
        raise UserError(
            f"missing: expected true or false for every value of x, {tuple(x.shape)}, got "
            f"{str(missing.dtype).removeprefix('torch.')} {tuple(missing.shape)}"
        )
    x = x if x.is_floating_point() else x.float()
    return x.masked_fill(missing, torch.nan)


def _check_values(model: VAE, values: Tensor, gaps: Tensor, given: Tensor | None) -> None:
    if values.isinf().any():
        raise UserError("x: expected finite numbers, or NaN where one is missing, got infinity")
    if given is not None and not given.isfinite().all():
        raise UserError("condition: expected one for every row, got NaN")
    if gaps.any() and not model.missing:
        raise UserError(
            "missing: expected a model trained with missing=model, for "
            f"{int(gaps.sum())} values are missing; this one knows of none missing"
        )
    for column, place in zip(model.columns or (), encoded_slices(model.columns or ()), strict=True):
        part = gaps[:, place]
        if (part.any(1) != part.all(1)).any():
            raise UserError(
                f"x: column {column.name!r}: expected all {column.width} numbers of its one-hot "
                "code to be missing, or none, got some"
            )


def _check_found(mean: Tensor, gaps: Tensor, index: Tensor) -> None:
    """See that every row could be weighed."""
    bad = (gaps & ~mean.isfinite()).any(1).nonzero().flatten()
    if len(bad):
        raise UserError(
            f"x: row {int(index[bad[0]])}, counted from 0: no z has a finite density; expected "
            "values like those of training, got some very far from them"
        )


def _weigh(model: VAE, rows: Tensor, samples: int, seed: int) -> _Weighted:
    """Draws for rows (B, R); not many of them are decoded at once."""
    values, condition = model.parts(rows)
    z, log_q = common_draws(model, rows, samples, seed)
    log_weights = model.prior_at(rows).log_prob(z) - log_q
    top = log_weights.new_full((len(rows),), -torch.inf)
    total, mean = torch.zeros_like(top), torch.zeros_like(values)
    for part in torch.arange(samples, device=z.device).split(model.draws_at_once(len(rows))):
        place = slice(int(part[0]), int(part[-1]) + 1)
        log_p, given_missing = model.observed(model.decode(z[place], condition), values)
        log_weights[place] += log_p
        before, top = top, torch.maximum(top, log_weights[place].amax(0))
        safe = torch.where(top.isneginf(), 0.0, top)  # no draw so far has any weight
        shrunk, weights = (before - safe).exp(), (log_weights[place] - safe).exp()
        total = total * shrunk + weights.sum(0)
        means: Tensor = given_missing.mean
        mean = mean * shrunk[:, None] + torch.einsum("sb,sbp->bp", weights, means)
    return _Weighted(z, log_weights.softmax(0), mean / total[:, None])


def _draw_row(
    model: VAE,
    found: Imputed,
    weighted: _Weighted,
    where: tuple[int, int],
    x: Tensor,
    interval: float | None,
    seed: int,
) -> None:
    """Draws and intervals of one row x (R,): its place among those weighed, and its number."""
    place, row = where
    z, weights = weighted.z[:, place], weighted.weights[:, place]
    condition = model.parts(x[None])[1]
    gaps = found.missing[row]

    def drawn(count: int, purpose: int) -> Tensor:
        key = np.random.SeedSequence([seed, row, purpose]).generate_state(1, np.uint64)
        generator = torch.Generator(z.device).manual_seed(int(key[0] >> np.uint64(1)))
        u = torch.rand(count, generator=generator, dtype=z.dtype, device=z.device)
        ends = weights.cumsum(0)
        chosen = z[torch.searchsorted(ends, u * ends[-1]).clamp(max=len(z) - 1)]
        found = []
        for part in chosen.split(model.draws_at_once()):
            p: Any = model.given_missing(model.decode(part, condition))
            found.append(p.sample(generator=generator)[:, gaps])
        return torch.cat(found)

    if len(found.draws):
        new = drawn(len(found.draws), _DRAWS)
        found.draws[:, row, gaps] = new.to(found.draws.dtype)
    if interval is not None and found.low is not None and found.high is not None:
        new = drawn(len(z), _INTERVAL).cpu().double().numpy()
        ends = np.quantile(new, [(1 - interval) / 2, (1 + interval) / 2], axis=0)
        low, high = torch.from_numpy(ends).to(found.low)
        found.low[row, gaps], found.high[row, gaps] = low, high


def _put(out: Tensor, index: Tensor, gaps: Tensor, new: Tensor) -> None:
    """New values in the chosen rows, where values are missing."""
    out[index] = torch.where(gaps[index], new.to(out.dtype), out[index])

"""Directions of latent space, and ways from one place in it to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from flowvae.errors import UserError, shown

__all__ = ["Directions", "axis_name", "lerp", "principal_directions", "slerp", "unit_vectors"]

Directions = Literal["axes", "principal"] | Sequence[int] | np.ndarray

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def unit_vectors(
    directions: Directions, D: int, aggregate: np.ndarray | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Unit vectors (n, D), and their names.

    Args:
        directions: as :func:`flowvae.traverse` takes them.
        D: dimensions of latent space.
        aggregate: the covariance (D, D) whose principal directions may be asked for.

    Raises:
        UserError: they are no directions of this space.
    """
    if isinstance(directions, str):
        if directions == "principal" and aggregate is not None:
            return principal_directions(aggregate)
        if directions != "axes":
            raise UserError(
                "directions: expected axes, principal, numbers of axes or an array (n, D), got "
                f"{shown(directions)}"
            )
        return np.eye(D), tuple(map(axis_name, range(D)))
    given = np.asarray(directions)
    if given.ndim == 1 and given.size and given.dtype.kind in "iu":
        if given.min() < 0 or given.max() >= D:
            raise UserError(f"directions: expected axes 0 to {D - 1}, got {shown(directions)}")
        return np.eye(D)[given], tuple(map(axis_name, given))
    if given.ndim != 2 or given.shape[1] != D or not len(given) or given.dtype.kind not in "fiu":
        raise UserError(
            f"directions: expected numbers of axes or an array (n, {D}), got {given.dtype} "
            f"{given.shape}"
        )
    length = np.linalg.norm(given.astype(np.float64), axis=1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise UserError("directions: expected finite vectors other than 0")
    return given / length, tuple(f"direction {n + 1}" for n in range(len(given)))


def axis_name(d: int) -> str:
    """z₁, z₂ and so on, of the latent axis d, which counts from 0."""
    return f"z{d + 1}".translate(_SUBSCRIPTS)


def principal_directions(covariance: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Eigenvectors, the largest variance first; the largest entry of each is positive."""
    variances, vectors = np.linalg.eigh(covariance)
    variances, v = variances[::-1], vectors.T[::-1]
    largest = np.take_along_axis(v, np.abs(v).argmax(1)[:, None], 1)
    share = variances / variances.sum()
    return v * np.sign(largest), tuple(f"component {n + 1} ({s:.0%})" for n, s in enumerate(share))


def lerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The straight way from a to b, each (D,), at t (steps,): (steps, D)."""
    return (1 - t)[:, None] * a + t[:, None] * b


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The way by an arc around 0: see :func:`flowvae.interpolate`."""
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    if min(lengths) == 0:
        return lerp(a, b, t)
    u, w = a / lengths[0], b / lengths[1]
    # Exact at small angles and near π, where the cosine is not.
    angle = 2 * np.arctan2(np.linalg.norm(u - w), np.linalg.norm(u + w))
    if np.sin(angle) < 1e-6:
        return lerp(a, b, t)
    turned = np.sin((1 - t) * angle)[:, None] * u + np.sin(t * angle)[:, None] * w
    length = (1 - t) * lengths[0] + t * lengths[1]
    return length[:, None] * turned / np.sin(angle)

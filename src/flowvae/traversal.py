"""Walks through latent space: along directions from a datum, and from one datum to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from flowvae.data import Column, Dataset
from flowvae.data.dataset import adopt
from flowvae.distributions import DiagonalGaussian, LatentDistribution
from flowvae.errors import UserError, shown
from flowvae.evaluation import encode_split
from flowvae.files import suffix_among, write_npz
from flowvae.likelihoods.support import check_support
from flowvae.outputs import decoded_means
from flowvae.runs import Run, RunLike, opened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Directions",
    "Interpolation",
    "Traversal",
    "axis_name",
    "interpolate",
    "principal_directions",
    "traverse",
]

Directions = Literal["axes", "principal"] | Sequence[int] | np.ndarray

_MEAN_DRAWS = 1000  # of q(z|x), where its mean has no formula
_SPREAD_DRAWS = 10_000  # of the prior, where its covariance has none; data of the aggregate
_MOST_STEPS = 1000
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True, eq=False, repr=False)
class Traversal:
    """What :func:`traverse` found; a notebook shows it as its picture.

    Args:
        z: (n, steps, D), where it was.
        values: (n, steps, *data_shape), the means of p(x|z) there.
        offsets: (steps,), distances from the start in units of the deviation.
        directions: (n, D), unit vectors.
        deviations: (n,), the unit along each direction.
        names: what each direction is called.
        columns: of a table, what the values mean.
    """

    z: np.ndarray
    values: np.ndarray
    offsets: np.ndarray
    directions: np.ndarray
    deviations: np.ndarray
    names: tuple[str, ...]
    columns: tuple[Column, ...] | None = None

    def __repr__(self) -> str:
        n, steps, D = self.z.shape
        return f"Traversal({n} directions, {steps} steps, D = {D})"

    def figure(self) -> Figure:
        """Images, a row a direction; or of other data the values that move most."""
        from flowvae.figures.walks import traversal_figure

        return traversal_figure(self.values, self.offsets, self.names, self.columns)

    def _repr_png_(self) -> bytes:
        return _png(self.figure())


@dataclass(frozen=True, eq=False, repr=False)
class Interpolation:
    """What :func:`interpolate` found; a notebook shows it as its picture.

    Args:
        z: (steps, D), the way from one latent mean to the other.
        values: (steps, *data_shape), the means of p(x|z) there.
        t: (steps,), from 0 to 1.
        ends: (2, *data_shape), the two data.
        columns: of a table, what the values mean.
    """

    z: np.ndarray
    values: np.ndarray
    t: np.ndarray
    ends: np.ndarray
    columns: tuple[Column, ...] | None = None

    def __repr__(self) -> str:
        steps, D = self.z.shape
        return f"Interpolation({steps} steps, D = {D})"

    def figure(self) -> Figure:
        """Images from one datum to the other; or of other data the values that move most."""
        from flowvae.figures.walks import interpolation_figure

        return interpolation_figure(self.values, self.t, self.ends, self.columns)

    def _repr_png_(self) -> bytes:
        return _png(self.figure())


def _png(figure: Any) -> bytes:
    return figure._repr_png_()


@torch.no_grad()
def traverse(
    run: RunLike,
    start: int | np.ndarray | Tensor | None = None,
    *,
    directions: Directions = "axes",
    num: int | None = None,
    steps: int = 9,
    reach: float = 3.0,
    unit: Literal["prior", "aggregate"] = "prior",
    out: str | Path | None = None,
    data: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Traversal:
    """Decode z = z₀ + o σ_v v along directions v, at offsets o from -reach to reach.

    σ_v = √(vᵀ Σ v) is the deviation along the unit vector v of the prior, or of the aggregate
    posterior, z ~ q(z|x) over the test data.

    Args:
        run: a run, or its folder.
        start: z₀ is the mean of q(z|x) of this datum: its number among the test data, or an array
            of the run's data shape with values as :attr:`flowvae.Run.dataset` has them (uint8: 255
            is 1). If not given, z₀ is the prior's mean.
        directions: ``"axes"`` of latent space; ``"principal"`` for those of the aggregate
            posterior, the largest variance first; numbers of axes, from 0; or an array (n, D).
        num: the first so many of them; all if not given.
        steps: how many z on each; an odd number has z₀ in its middle.
        reach: the largest offset.
        unit: whose deviation an offset of 1 is: of the ``"prior"`` or of the ``"aggregate"``
            posterior.
        out: also write it, as a picture (``.png``) or as arrays (``.npz``).
        data: other data of the same shape.
        device: where to compute, for a run given by its folder.
        seed: of the draws that means and deviations without a formula are taken from.

    Raises:
        UserError: bad input; nothing has been written.

    Examples:
        >>> import flowvae, numpy as np
        >>> from flowvae.data import Dataset
        >>> pixels = np.random.rand(60, 6, 5)
        >>> data = Dataset.from_arrays(pixels[:40], pixels[40:])
        >>> run = flowvae.train(dataset=data, out=tmp_path / "run", epochs=1, finish=False,
        ...                     progress=False)
        >>> found = flowvae.traverse(run, 0, directions="principal", steps=5)
        >>> found.z.shape, found.values.shape, found.offsets
        ((2, 5, 2), (2, 5, 6, 5), array([-3. , -1.5,  0. ,  1.5,  3. ]))
    """
    _check_counts(steps, num)
    if not (np.isfinite(reach) and reach > 0):
        raise UserError(f"reach: expected a number above 0, got {shown(reach)}")
    if unit not in ("prior", "aggregate"):
        raise UserError(f"unit: expected prior or aggregate, got {shown(unit)}")
    suffix = None if out is None else suffix_among(out, ".png", ".npz")
    run = opened(run, device, data)
    prior = run.model.prior()
    if start is None:
        z_0 = _mean(prior, run.generator(seed))
    else:
        z_0 = _mean(run.model.posterior(_datum(run, "start", start)), run.generator(seed))[0]
    # Draws of their own: directions and deviations do not depend on the start.
    aggregate = None
    if unit == "aggregate" or (isinstance(directions, str) and directions == "principal"):
        aggregate = _aggregate_covariance(run, run.generator(seed))
    v, names = _unit_vectors(directions, run.model.latent_dim, aggregate)
    v, names = v[:num], names[:num]
    spread = aggregate if unit == "aggregate" else None
    spread = _covariance(prior, run.generator(seed)) if spread is None else spread
    deviations = np.sqrt(np.einsum("nd,de,ne->n", v, spread, v))
    offsets = np.linspace(-reach, reach, steps)
    moves = offsets[:, None] * (deviations[:, None] * v)[:, None]
    z = (z_0.double().cpu().numpy() + moves).astype(np.float32)
    values = _decoded(run, z)
    found = Traversal(z, values, offsets, v, deviations, names, run.model.columns)
    if out is not None and suffix is not None:
        arrays = {"directions": v, "deviations": deviations, "names": np.array(names)}
        _write(out, suffix, found, {"z": z, "values": values, "offsets": offsets, **arrays})
    return found


@torch.no_grad()
def interpolate(
    run: RunLike,
    first: int | np.ndarray | Tensor = 0,
    last: int | np.ndarray | Tensor = 1,
    *,
    steps: int = 9,
    path: Literal["linear", "spherical"] = "linear",
    out: str | Path | None = None,
    data: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Interpolation:
    """Decode the way from one datum's latent mean a to another's, b.

    - ``linear``: z(t) = (1 - t) a + t b.
    - ``spherical``: the direction turns evenly, by slerp, and the length goes evenly from ‖a‖ to
      ‖b‖: with the angle Ω between them, z(t) = ((1 - t) ‖a‖ + t ‖b‖) (sin((1 - t) Ω) a / ‖a‖ +
      sin(t Ω) b / ‖b‖) / sin Ω. Where no arc is given, because a and b lie on one line through 0
      (so always at D = 1), it is the linear one.

    Args:
        run: a run, or its folder.
        first: a datum: its number among the test data, or an array of the run's data shape with
            values as :attr:`flowvae.Run.dataset` has them (uint8: 255 is 1).
        last: another.
        steps: how many z, both ends among them.
        path: as above.
        out: also write it, as a picture (``.png``) or as arrays (``.npz``).
        data: other data of the same shape.
        device: where to compute, for a run given by its folder.
        seed: of the draws that a mean without a formula is taken from.

    Raises:
        UserError: bad input; nothing has been written.

    Source: "Sampling Generative Networks", arXiv 1609.04468, for the spherical path.

    Examples:
        >>> import flowvae, numpy as np
        >>> from flowvae.data import Dataset
        >>> pixels = np.random.rand(60, 6, 5)
        >>> data = Dataset.from_arrays(pixels[:40], pixels[40:])
        >>> run = flowvae.train(dataset=data, out=tmp_path / "run", epochs=1, finish=False,
        ...                     progress=False)
        >>> found = flowvae.interpolate(run, 3, pixels[0], steps=4, path="spherical")
        >>> found.z.shape, found.values.shape
        ((4, 2), (4, 6, 5))
    """
    _check_counts(steps)
    if path not in ("linear", "spherical"):
        raise UserError(f"path: expected linear or spherical, got {shown(path)}")
    suffix = None if out is None else suffix_among(out, ".png", ".npz")
    run = opened(run, device, data)
    generator = run.generator(seed)
    x = torch.cat([_datum(run, "first", first), _datum(run, "last", last)])
    a, b = _mean(run.model.posterior(x), generator).double().cpu().numpy()
    t = np.linspace(0, 1, steps)
    z = (_slerp(a, b, t) if path == "spherical" else _lerp(a, b, t)).astype(np.float32)
    values = _decoded(run, z)
    ends = x.cpu().reshape(2, *run.model.data_shape).numpy()
    found = Interpolation(z, values, t, ends, run.model.columns)
    if out is not None and suffix is not None:
        _write(out, suffix, found, {"z": z, "values": values, "t": t, "ends": ends})
    return found


def _check_counts(steps: int, num: int | None = None) -> None:
    if not 2 <= steps <= _MOST_STEPS:
        raise UserError(f"steps: expected 2 to {_MOST_STEPS}, got {steps}")
    if num is not None and num < 1:
        raise UserError(f"num: expected at least 1, got {num}")


def _datum(run: Run, what: str, given: int | np.ndarray | Tensor) -> Tensor:
    """One datum, (1, P), where the model is."""
    device = next(run.model.parameters()).device
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        count = len(run.dataset.test)
        if not 0 <= given < count:
            raise UserError(f"{what}: expected 0 to {count - 1}, a test datum; got {given}")
        return run.dataset.test.values(slice(int(given), int(given) + 1)).to(device)
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    shape = run.model.data_shape
    if array.shape not in (shape, (run.model.data_dim,)):
        raise UserError(
            f"{what}: expected the number of a test datum or an array of shape {shape}, got "
            f"{shown(given) if array.ndim == 0 else f'shape {array.shape}'}"
        )
    split = adopt(array[None], None, what)
    check_support(
        run.config.model.likelihood,
        Dataset(what, split, split, shape, columns=run.model.columns),
    )
    return split.values().to(device)


def _mean(p: LatentDistribution, generator: torch.Generator) -> Tensor:
    """By its formula, or over draws."""
    try:
        return p.mean
    except NotImplementedError:
        return p.rsample((_MEAN_DRAWS,), generator).mean(0)


def _covariance(prior: LatentDistribution, generator: torch.Generator) -> np.ndarray:
    """Of the prior, (D, D), float64: by its formula, or over draws."""
    if isinstance(prior, DiagonalGaussian):
        return np.diag(prior.variance.double().cpu().numpy())
    return _covariance_of(prior.rsample((_SPREAD_DRAWS,), generator))


def _aggregate_covariance(run: Run, generator: torch.Generator) -> np.ndarray:
    """Of z ~ q(z|x) over the test data, (D, D), float64."""
    some = run.dataset.test.at_most(_SPREAD_DRAWS)
    if len(some) < 2:
        raise UserError("unit: the aggregate posterior needs at least 2 test data, got 1")
    return _covariance_of(encode_split(run.model, some, generator)[0])


def _covariance_of(z: Tensor) -> np.ndarray:
    return np.atleast_2d(np.cov(z.double().cpu().numpy().T))


def _unit_vectors(
    directions: Directions, D: int, aggregate: np.ndarray | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n, D), and their names."""
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


def _lerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    return (1 - t)[:, None] * a + t[:, None] * b


def _slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    if min(lengths) == 0:
        return _lerp(a, b, t)
    u, w = a / lengths[0], b / lengths[1]
    # Exact at small angles and near π, where the cosine is not.
    angle = 2 * np.arctan2(np.linalg.norm(u - w), np.linalg.norm(u + w))
    if np.sin(angle) < 1e-6:
        return _lerp(a, b, t)
    turned = np.sin((1 - t) * angle)[:, None] * u + np.sin(t * angle)[:, None] * w
    length = (1 - t) * lengths[0] + t * lengths[1]
    return length[:, None] * turned / np.sin(angle)


def _decoded(run: Run, z: np.ndarray) -> np.ndarray:
    place = next(run.model.parameters())
    means = decoded_means(run.model, torch.from_numpy(z).to(place))
    return means.reshape(*z.shape[:-1], *run.model.data_shape).numpy()


def _write(
    out: str | Path, suffix: str, found: Traversal | Interpolation, arrays: dict[str, np.ndarray]
) -> None:
    if suffix == ".npz":
        write_npz(out, arrays)
        return
    from flowvae.figures import save_figure

    save_figure(found.figure(), out)

"""Walks through latent space: along directions from a datum, and from one datum to another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from flowvae.data import Column, Dataset
from flowvae.data.conditions import encode_condition
from flowvae.data.dataset import adopt
from flowvae.distributions import DiagonalGaussian, LatentDistribution
from flowvae.errors import UserError, shown
from flowvae.evaluation import encode_split
from flowvae.files import suffix_among, write_npz
from flowvae.latent_ways import Directions, lerp, slerp, unit_vectors
from flowvae.likelihoods.support import check_support
from flowvae.outputs import decoded_means
from flowvae.runs import Run, RunLike, opened
from flowvae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Directions", "Interpolation", "Traversal", "interpolate", "traverse"]

_MEAN_DRAWS = 1000  # of q(z|x), where its mean has no formula
_SPREAD_DRAWS = 10_000  # of the prior, where its covariance has none; data of the aggregate
_MOST_STEPS = 1000


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
    condition: Any = None,
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
    posterior, z ~ q(z|x) over the test data. Of a conditional run all is decoded, and the prior
    taken, under one condition y.

    Args:
        run: a run, or its folder.
        start: z₀ is the mean of q(z|x) of this datum: its number among the test data, or an array
            of the run's data shape with values as :attr:`flowvae.Run.dataset` has them (uint8: 255
            is 1). If not given, z₀ is the prior's mean.
        directions: ``"axes"`` of latent space; ``"principal"`` for those of the aggregate
            posterior, the largest variance first; numbers of axes, from 0; or an array (n, D).
        num: the first so many of them; all if not given.
        condition: y, for a conditional run: a class or a number, of several columns a mapping from
            their names to such. If not given, that of the test datum which ``start`` names; an
            array as ``start``, and the prior's mean, need one. A test datum is encoded under its
            own condition.
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
    y = _given(run.model, condition, 1)
    rows = None if start is None else _datum(run, "start", start, y)
    y = run.model.parts(rows)[1] if y is None and rows is not None else y
    prior = _prior(run.model, y)
    if rows is None:
        z_0 = _mean(prior, run.generator(seed))
    else:
        z_0 = _mean(run.model.posterior(rows), run.generator(seed))[0]
    # Draws of their own: directions and deviations do not depend on the start.
    aggregate = None
    if unit == "aggregate" or (isinstance(directions, str) and directions == "principal"):
        aggregate = _aggregate_covariance(run, run.generator(seed))
    v, names = unit_vectors(directions, run.model.latent_dim, aggregate)
    v, names = v[:num], names[:num]
    spread = aggregate if unit == "aggregate" else None
    spread = _covariance(prior, run.generator(seed)) if spread is None else spread
    deviations = np.sqrt(np.einsum("nd,de,ne->n", v, spread, v))
    offsets = np.linspace(-reach, reach, steps)
    moves = offsets[:, None] * (deviations[:, None] * v)[:, None]
    z = (z_0.cpu().double().numpy() + moves).astype(np.float32)
    values = _decoded(run, z, y)
    found = Traversal(z, values, offsets, v, deviations, names, run.model.columns)
    if out is not None and suffix is not None:
        arrays = {"directions": v, "deviations": deviations, "names": np.array(names)}
        arrays |= {"z": z, "values": values, "offsets": offsets}
        _write(out, suffix, found, arrays, y)
    return found


@torch.no_grad()
def interpolate(
    run: RunLike,
    first: int | np.ndarray | Tensor = 0,
    last: int | np.ndarray | Tensor = 1,
    *,
    condition: Any = None,
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
        condition: y, for a conditional run, which all z are decoded under: a class or a number, of
            several columns a mapping from their names to such. Of two of them the first one is y at
            t = 0 and the other at t = 1, with (1 - t) y₀ + t y₁ between; at ``first`` = ``last`` z
            stays, and the condition alone changes. If not given, that of ``first``. Test data are
            encoded under their own conditions, arrays under this one.
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
    y = _given(run.model, condition, 2)
    one, other = (None, None) if y is None else (y[:1], y[-1:])
    rows = torch.cat([_datum(run, "first", first, one), _datum(run, "last", last, other)])
    a, b = _mean(run.model.posterior(rows), generator).cpu().double().numpy()
    t = np.linspace(0, 1, steps)
    z = (slerp(a, b, t) if path == "spherical" else lerp(a, b, t)).astype(np.float32)
    x, own = run.model.parts(rows)
    y = own[:1] if y is None and own is not None else y
    if y is not None:
        y = torch.lerp(y[:1], y[-1:], torch.from_numpy(t).to(y)[:, None])
    values = _decoded(run, z, y)
    ends = x.cpu().reshape(2, *run.model.data_shape).numpy()
    found = Interpolation(z, values, t, ends, run.model.columns)
    if out is not None and suffix is not None:
        _write(out, suffix, found, {"z": z, "values": values, "t": t, "ends": ends}, y)
    return found


def _check_counts(steps: int, num: int | None = None) -> None:
    if not 2 <= steps <= _MOST_STEPS:
        raise UserError(f"steps: expected 2 to {_MOST_STEPS}, got {steps}")
    if num is not None and num < 1:
        raise UserError(f"num: expected at least 1, got {num}")


def _given(model: VAE, condition: Any, most: int) -> Tensor | None:
    """A condition as numbers, (1, C) or up to ``most`` of them, where the model is."""
    if condition is None:
        return None
    y = encode_condition(model.condition, condition)
    if len(y) > most:
        raise UserError(f"condition: expected {' or '.join('12'[:most])}, got {len(y)}")
    return y.to(next(model.parameters()))


def _prior(model: VAE, condition: Tensor | None) -> LatentDistribution:
    """p(z), or p(z|y), of no batch; a conditional model without a condition is an error."""
    if model.condition is not None and condition is None:
        encode_condition(model.condition, None)  # says what is expected
    return model.prior_given(None if condition is None else condition[0])


def _datum(
    run: Run, what: str, given: int | np.ndarray | Tensor, condition: Tensor | None
) -> Tensor:
    """One datum as a row, (1, P + C), where the model is; an array has the condition given."""
    device = next(run.model.parameters()).device
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        count = len(run.dataset.test)
        if not 0 <= given < count:
            raise UserError(f"{what}: expected 0 to {count - 1}, a test datum; got {given}")
        return run.dataset.test.rows(slice(int(given), int(given) + 1)).to(device)
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    shape = run.model.data_shape
    if array.shape not in (shape, (run.model.data_dim,)):
        raise UserError(
            f"{what}: expected the number of a test datum or an array of shape {shape}, got "
            f"{shown(given) if array.ndim == 0 else f'shape {array.shape}'}"
        )
    split = adopt(array[None], None, what, missing=run.model.missing)
    check_support(
        run.config.model.likelihood,
        Dataset(what, split, split, shape, columns=run.model.columns),
    )
    values = split.values().to(device)
    if run.model.condition is not None and condition is None:
        encode_condition(run.model.condition, None)  # says what is expected
    return values if condition is None else run.model.rows(values, condition)


def _mean(p: LatentDistribution, generator: torch.Generator) -> Tensor:
    """By its formula, or over draws."""
    try:
        return p.mean
    except NotImplementedError:
        return p.rsample((_MEAN_DRAWS,), generator).mean(0)


def _covariance(prior: LatentDistribution, generator: torch.Generator) -> np.ndarray:
    """Of the prior, (D, D), float64: by its formula, or over draws."""
    if isinstance(prior, DiagonalGaussian):
        return np.diag(prior.variance.cpu().double().numpy())
    return _covariance_of(prior.rsample((_SPREAD_DRAWS,), generator))


def _aggregate_covariance(run: Run, generator: torch.Generator) -> np.ndarray:
    """Of z ~ q(z|x) over the test data, (D, D), float64."""
    some = run.dataset.test.at_most(_SPREAD_DRAWS)
    if len(some) < 2:
        raise UserError("unit: the aggregate posterior needs at least 2 test data, got 1")
    return _covariance_of(encode_split(run.model, some, generator)[0])


def _covariance_of(z: Tensor) -> np.ndarray:
    return np.atleast_2d(np.cov(z.cpu().double().numpy().T))


def _decoded(run: Run, z: np.ndarray, condition: Tensor | None) -> np.ndarray:
    place = next(run.model.parameters())
    means = decoded_means(run.model, torch.from_numpy(z).to(place), condition)
    return means.reshape(*z.shape[:-1], *run.model.data_shape).numpy()


def _write(
    out: str | Path,
    suffix: str,
    found: Traversal | Interpolation,
    arrays: dict[str, np.ndarray],
    condition: Tensor | None,
) -> None:
    if suffix == ".npz":
        more = {} if condition is None else {"condition": condition.cpu().numpy()}
        write_npz(out, {**arrays, **more})
        return
    from flowvae.figures import save_figure

    save_figure(found.figure(), out)

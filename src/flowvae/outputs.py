"""What a run gives: samples, reconstructions and latents, and the files that hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowvae.data import Column, Split, decode_table
from flowvae.data.columns import encoded_slices
from flowvae.data.condition_texts import condition_texts, conditions_in_turn
from flowvae.data.conditions import check_known, classes_of, encode_condition
from flowvae.errors import UserError
from flowvae.evaluation import encode_split
from flowvae.files import suffix_among, write_csv, write_npz
from flowvae.refined import RefinedVAE
from flowvae.runs import Run, RunLike, opened
from flowvae.vae import VAE

__all__ = ["decoded_means", "encode", "reconstruct", "sample"]

_MOST_COLUMNS = 20  # of a picture that has a class in each


@torch.no_grad()
def sample(
    run: RunLike,
    n: int = 64,
    *,
    condition: Any = None,
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
) -> np.ndarray:
    """Generate: decode n draws of z ~ p(z) to the means of p(x|z), or of p(x|z, y).

    Args:
        run: a run, or its folder.
        n: how many.
        condition: y, for a conditional run: a class or a number, or n of them; of several columns a
            mapping from their names to such. If not given, the classes in turn, or where the
            condition is no class the conditions of the test data in turn.
        out: also write them, as a picture (``.png``), an array ``x`` (``.npz``) or, of a table,
            rows in its own values (``.csv``). The conditions go with arrays and rows.
        device: where to compute, for a run given by its folder.
        seed: of the draws.

    Returns:
        (n, *data_shape), float32.
    """
    if n < 1:
        raise UserError(f"num: expected at least 1, got {n}")
    run = opened(run, device)
    if out is not None:
        _suffix(run, out)  # before anything is computed
    model = run.model
    given = given_in_turn(run, n) if condition is None else condition
    if given is not None:
        given = encode_condition(model.condition, given, n)
    x = _shaped(run, model.sample(n, run.generator(seed), condition=given))
    if out is not None:
        from flowvae.figures import image_grid

        title = f"Decoder means at z ~ p(z){condition_title(model.condition, given)}"
        classes = classes_of(model.condition) if condition is None else None
        columns = len(classes) if classes and len(classes) <= min(n, _MOST_COLUMNS) else None
        draw = partial(image_grid, title=title, columns=columns)  # a column a class, if in turn
        _write_data(run, out, draw, x, {"x": x}, given)
    return x


@torch.no_grad()
def reconstruct(
    run: RunLike,
    n: int = 16,
    *,
    condition: Any = None,
    out: str | Path | None = None,
    data: str | None = None,
    device: str = "auto",
    seed: int = 0,
    refine: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Encode, flow and decode the first n test data, with one draw z ~ q(z|x) each.

    Args:
        run: a run, or its folder.
        n: how many.
        condition: of a conditional run, what the data is rewritten as: a class or a number, or one
            for each datum; of several columns a mapping from their names to such. z is of the
            datum's own condition, which is also decoded under if this is not given.
        out: also write them, as a picture (``.png``), as arrays ``x`` and ``reconstruction``
            (``.npz``) or, of a table, as rows in its own values (``.csv``).
        data: other data of the same shape.
        device: where to compute, for a run given by its folder.
        seed: of the draws.
        refine: steps of optimization of q(z|x) for each datum.

    Returns:
        The originals and their reconstructions, each (n, *data_shape), float32.
    """
    if n < 1:
        raise UserError(f"num: expected at least 1, got {n}")
    run = opened(run, device, data)
    if out is not None:
        _suffix(run, out)
    model = _refined(run, refine)
    given = None
    if condition is not None:  # before any data is read
        count = min(n, len(run.dataset.test)) if model.condition is not None else n
        given = encode_condition(model.condition, condition, count)
    check_known(run.dataset.test, "test")
    rows = run.dataset.test.rows(slice(n)).to(next(model.parameters()).device)
    original = _shaped(run, model.parts(rows)[0])
    again = model.reconstruct(rows, run.generator(seed), condition=given)
    reconstruction = _shaped(run, again)
    if out is not None:
        from flowvae.figures import image_pairs

        arrays = {"x": original, "reconstruction": reconstruction}
        title = "Test data (above) and reconstructions at z ~ q(z|x) (below)"
        if given is not None:
            title = f"Test data (above) and rewritten{condition_title(model.condition, given)}"
        draw = partial(image_pairs, title=title)
        under = model.parts(rows)[1] if given is None else given
        _write_data(run, out, draw, (original, reconstruction), arrays, under)
    return original, reconstruction


@torch.no_grad()
def encode(
    run: RunLike,
    split: str = "test",
    *,
    out: str | Path | None = None,
    data: str | None = None,
    device: str = "auto",
    seed: int = 0,
    refine: int = 0,
) -> dict[str, np.ndarray]:
    """Draw z ~ q(z|x) once for every datum, with its log-density.

    Args:
        run: a run, or its folder.
        split: ``"test"`` or ``"train"``.
        out: also write them, as ``.npz`` (z, log_q, label) or ``.csv`` (z_1 … z_D, log_q, label).
        data: other data of the same shape.
        device: where to compute, for a run given by its folder.
        seed: of the draws.
        refine: steps of optimization of q(z|x) for each datum.

    Returns:
        ``z`` (N, D), ``log_q`` (N,) in nats and, where the data has labels, ``label`` (N,).
    """
    if split not in ("test", "train"):
        raise UserError(f"split: expected test or train, got {split!r}")
    suffix = None if out is None else suffix_among(out, ".npz", ".csv")
    run = opened(run, device, data)
    chosen: Split = getattr(run.dataset, split)
    check_known(chosen, split)
    z, log_q = encode_split(_refined(run, refine), chosen, run.generator(seed))
    found = {"z": z.numpy(), "log_q": log_q.numpy()}
    if chosen.labels is not None:
        found["label"] = chosen.labels.numpy()
    if out is not None and suffix == ".npz":
        write_npz(out, found)
    elif out is not None:
        D = found["z"].shape[1]
        header = [*(f"z_{d + 1}" for d in range(D)), *(name for name in found if name != "z")]
        columns = [*found["z"].T, *(value for name, value in found.items() if name != "z")]
        write_csv(out, header, list(zip(*(column.tolist() for column in columns), strict=True)))
    return found


@torch.no_grad()
def decoded_means(
    model: VAE, z: torch.Tensor, condition: torch.Tensor | None = None
) -> torch.Tensor:
    """The means of p(x|z) at z (..., D), as (..., P) on the CPU; not many are decoded at once.

    Of a conditional model those of p(x|z, y) at conditions y (..., C), encoded.
    """
    at_once = model.draws_at_once()
    parts = z.reshape(-1, z.shape[-1]).split(at_once)
    if condition is None:
        means = [model.decode(part).mean.cpu() for part in parts]
    else:
        every = condition.expand(*z.shape[:-1], -1).reshape(-1, condition.shape[-1]).split(at_once)
        pairs = zip(parts, every, strict=True)
        means = [model.decode(part, given).mean.cpu() for part, given in pairs]
    return torch.cat(means).reshape(*z.shape[:-1], -1)


def given_in_turn(run: Run, count: int) -> torch.Tensor | None:
    """Conditions for draws where none is asked for, (count, C); none of an unconditional run.

    The classes in turn, or where the condition is no class the conditions of the test data.
    """
    columns = run.model.condition
    if columns is None:
        return None
    return conditions_in_turn(columns, count, lambda: run.dataset.test.condition)


def condition_title(columns: Sequence[Column] | None, given: torch.Tensor | None) -> str:
    """What the title of a picture says of the conditions (N, C) of what it shows."""
    if columns is None or given is None:
        return ""
    if len(given) > 1 and not bool((given == given[0]).all()):
        return ", each under a condition of its own"
    name = f"{columns[0].name}=" if classes_of(columns) is not None else ""
    return f", {name}{condition_texts(columns, given[:1])[0]}"


def _refined(run: Run, steps: int) -> VAE:
    if steps < 0:
        raise UserError(f"refine: expected at least 0, got {steps}")
    return RefinedVAE(run.model, steps=steps) if steps else run.model


def _shaped(run: Run, x: torch.Tensor) -> np.ndarray:
    return x.cpu().reshape(-1, *run.model.data_shape).numpy()


def _suffix(run: Run, out: str | Path) -> str:
    """The ending of a file that this run's data can be written to."""
    from flowvae.figures.images import is_image

    table = (".csv",) if run.model.columns is not None else ()
    picture = (".png",) if is_image(run.model.data_shape) else ()
    return suffix_among(out, *picture, ".npz", *table)


def _write_data(
    run: Run,
    out: str | Path,
    draw: Any,
    images: Any,
    arrays: dict[str, np.ndarray],
    given: torch.Tensor | None,
) -> None:
    """Arrays as they are, as a picture, or as rows of a table: those of all arrays by turns.

    The conditions ``given`` go with arrays as ``condition``, one text a datum, and with rows as
    further columns.
    """
    suffix = _suffix(run, out)
    under = run.model.condition or ()
    if suffix == ".npz":
        more = {} if given is None else {"condition": np.array(condition_texts(under, given))}
        write_npz(out, {**arrays, **more})
    elif suffix == ".csv":
        columns = run.model.columns or ()
        decoded = {name: _cells(columns, array) for name, array in arrays.items()}
        count = len(next(iter(arrays.values())))
        beside = [[]] * count if given is None else _cells(under, given.cpu().numpy())
        rows = [
            [name, *table[row], *beside[row]]
            for row in range(count)
            for name, table in decoded.items()
        ]
        write_csv(out, ["array", *(column.name for column in (*columns, *under))], rows)
    else:
        from flowvae.figures import save_figure

        save_figure(draw(images), out)


def _cells(columns: Sequence[Column], rows: np.ndarray) -> list[list[Any]]:
    """Rows (N, P) in the values of a table; a value that is missing is empty."""
    nan = np.isnan(rows)
    missing: list[Any] = [nan[:, p].any(1).tolist() for p in encoded_slices(columns)]
    table = decode_table(columns, np.nan_to_num(rows))
    return [
        [
            "" if gaps[row] else cell(column, table[column.name][row])
            for column, gaps in zip(columns, missing, strict=True)
        ]
        for row in range(len(rows))
    ]


def cell(column: Column, value: Any) -> Any:
    """A number to six digits of its deviation: of a standardised value float32 knows seven."""
    if not isinstance(value, float):
        return value
    before = math.log10(1 + abs(column.mean) / column.scale)
    return f"{value:.{min(17, 6 + math.ceil(before))}g}"

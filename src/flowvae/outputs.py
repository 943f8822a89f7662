"""What a run gives: samples, reconstructions and latents, and the files that hold them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowvae.data import Column, Split, decode_table
from flowvae.errors import UserError
from flowvae.evaluation import encode_split
from flowvae.files import suffix_among, write_csv, write_npz
from flowvae.refined import RefinedVAE
from flowvae.runs import Run, RunLike, opened
from flowvae.vae import VAE

__all__ = ["decoded_means", "encode", "reconstruct", "sample"]


@torch.no_grad()
def sample(
    run: RunLike,
    n: int = 64,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
) -> np.ndarray:
    """Generate: decode n draws of z ~ p(z) to the means of p(x|z).

    Args:
        run: a run, or its folder.
        n: how many.
        out: also write them, as a picture (``.png``), an array ``x`` (``.npz``) or, of a table,
            rows in its own values (``.csv``).
        device: where to compute, for a run given by its folder.
        seed: of the draws.

    Returns:
        (n, *data_shape), float32.
    """
    if n < 1:
        raise UserError(f"num: expected at least 1, got {n}")
    run = opened(run, device)
    x = _shaped(run, run.model.sample(n, run.generator(seed)))
    if out is not None:
        from flowvae.figures import image_grid

        _write_data(run, out, image_grid, x, {"x": x})
    return x


@torch.no_grad()
def reconstruct(
    run: RunLike,
    n: int = 16,
    *,
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
    x = run.dataset.test.values(slice(n)).to(next(run.model.parameters()).device)
    original = _shaped(run, x)
    model = _refined(run, refine)
    reconstruction = _shaped(run, model.reconstruct(x, run.generator(seed)))
    if out is not None:
        from flowvae.figures import image_pairs

        arrays = {"x": original, "reconstruction": reconstruction}
        _write_data(run, out, image_pairs, (original, reconstruction), arrays)
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
def decoded_means(model: VAE, z: torch.Tensor) -> torch.Tensor:
    """The means of p(x|z) at z (..., D), as (..., P) on the CPU; not many are decoded at once."""
    parts = z.reshape(-1, z.shape[-1]).split(model.draws_at_once())
    means = torch.cat([model.decode(part).mean.cpu() for part in parts])
    return means.reshape(*z.shape[:-1], -1)


def _refined(run: Run, steps: int) -> VAE:
    if steps < 0:
        raise UserError(f"refine: expected at least 0, got {steps}")
    return RefinedVAE(run.model, steps=steps) if steps else run.model


def _shaped(run: Run, x: torch.Tensor) -> np.ndarray:
    return x.cpu().reshape(-1, *run.model.data_shape).numpy()


def _write_data(
    run: Run, out: str | Path, draw: Any, images: Any, arrays: dict[str, np.ndarray]
) -> None:
    """Arrays as they are, as a picture, or as rows of a table: those of all arrays by turns."""
    table = (".csv",) if run.model.columns is not None else ()
    suffix = suffix_among(out, ".png", ".npz", *table)
    if suffix == ".npz":
        write_npz(out, arrays)
    elif suffix == ".csv":
        columns = run.model.columns or ()
        decoded = {name: decode_table(columns, array) for name, array in arrays.items()}
        count = len(next(iter(arrays.values())))
        rows = [
            [name, *(cell(column, table[column.name][row]) for column in columns)]
            for row in range(count)
            for name, table in decoded.items()
        ]
        write_csv(out, ["array", *(column.name for column in columns)], rows)
    else:
        from flowvae.figures import save_figure

        save_figure(draw(images), out)


def cell(column: Column, value: Any) -> Any:
    """A number to seven digits of its deviation: what float32 knows of a standardised value."""
    if not isinstance(value, float):
        return value
    before = math.log10(1 + abs(column.mean) / column.scale)
    return f"{value:.{min(17, 7 + math.ceil(before))}g}"

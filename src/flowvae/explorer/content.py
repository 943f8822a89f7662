"""What a page is made of: the model or its answers, test data, and how to show them."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from torch import Tensor

from flowvae.data import Split
from flowvae.data.columns import columns_to_json, condition_in_words
from flowvae.data.conditions import check_known
from flowvae.evaluation import encode_split
from flowvae.evaluation.quadrature import latent_box
from flowvae.explorer.arrays import Arrays
from flowvae.explorer.live import live_model, why_not_live
from flowvae.explorer.stored import chosen_classes, stored_answers
from flowvae.figures.images import is_image
from flowvae.figures.style import BLUE, DENSITY, class_colors
from flowvae.figures.walks import value_names
from flowvae.latent_ways import axis_name, principal_directions
from flowvae.runs import Run
from flowvae.vae import VAE

__all__ = ["page_content"]

_SCATTERED = 2000
_LIVE, _STORED, _NEIGHBOURS = 60, 16, 200  # test data to choose from
_EXAMPLE_BYTES = 2_000_000
_MOST_CLASSES = 30
_MEAN_DRAWS = 64
_MOST_AXES, _PRINCIPAL = 64, 6
_STEPS = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]  # of a traversal, in deviations


@torch.no_grad()
def page_content(run: Run) -> tuple[dict[str, Any], str]:
    """The description of a page, for JSON, and its numbers as base64."""
    model, arrays = run.model.eval(), Arrays()
    test, D = run.dataset.test, model.latent_dim
    check_known(test, "test")
    device = next(model.parameters()).device
    reason = why_not_live(model)
    image = is_image(model.data_shape)

    scattered = test.at_most(_SCATTERED)
    z = encode_split(model, scattered, run.generator(0))[0].to(device)
    directions = _directions(z)
    wanted = _STORED if reason else _LIVE if D == 2 else _NEIGHBOURS
    least = 4 if reason else 20
    wanted = max(least, min(wanted, _EXAMPLE_BYTES // (model.data_dim * (1 if image else 4))))
    examples = test.at_most(wanted)
    rows = examples.rows().to(device)
    x, condition = model.parts(rows)
    means = _means(model, rows)
    box = latent_box(model, scattered.rows().to(device), z[None])
    shape = _shape(model, x, image)
    span = (shape["low"], shape["high"]) if image else None
    classes, codes = _classes(run, test.labels)
    spec = {
        "title": f"{run.config.model.posterior.name} posterior, {Path(run.dataset.name).name}",
        "about": _about(run),
        "note": _note(model, reason, len(x)),
        "measure": _measure(run),
        "latent_dim": D,
        "data_dim": model.data_dim,
        "shape": shape,
        "pad": image and 1 in _channels(model.data_shape) and _in_unit_interval(run),
        "binary": run.dataset.statistics.binary,
        "box": [corner.tolist() for corner in box],
        "colors": {
            "density": [to_hex(c) for c in colormaps[DENSITY](np.linspace(0, 1, 64))],
            "classes": [to_hex(c) for c in class_colors(len(classes))] if classes else [],
            "plain": BLUE,
        },
        "classes": classes,
        "scatter": {"z": arrays.add(z), "label": _codes(scattered, codes, arrays)},
        "examples": {
            "count": len(x),
            "x": arrays.add_values(x),
            "label": _codes(examples, codes, arrays),
            "mean": arrays.add(means),
            "condition": None if condition is None else arrays.add(condition),
        },
        "condition": _condition(model),
        "directions": {
            "names": directions["names"],
            "scales": directions["scales"],
            "steps": directions["steps"],
            "components": directions["components"],
            "array": arrays.add(directions["vectors"]),
            "origin": arrays.add(z.mean(0)),
        },
        "model": None if reason else live_model(model, arrays),
        "stored": stored_answers(model, rows, means, directions, box, span, arrays)
        if reason
        else None,
    }
    return {**spec, "arrays": arrays.about}, arrays.base64()


def _note(model: VAE, reason: str | None, count: int) -> str:
    if reason is None:
        return ""
    note = (
        f"This run has {reason}, which the page does not compute: it shows what was computed "
        f"for {count} test data when it was made."
    )
    if model.condition is not None and chosen_classes(model.condition) is None:
        note += " Each is under its own condition."
    return note


def _measure(run: Run) -> str:
    given = "x" if run.model.condition is None else "x|y"
    kind = run.measure if run.measure.startswith("pseudo") else f"logarithm of a {run.measure}"
    article = "a" if kind is run.measure else "the"
    missing = " It is of the values that are there." if run.model.missing else ""
    if run.model.missingness is not None:
        missing = " It is of the values that are there, and of which these are."
    return f"log p({given}) is {article} {kind}.{missing}"


def _condition(model: VAE) -> dict[str, Any] | None:
    """What a person can set of the condition, or none of it."""
    if model.condition is None:
        return None
    settable = why_not_live(model) is None or chosen_classes(model.condition) is not None
    return {
        "columns": columns_to_json(model.condition) if settable else [],
        "name": condition_in_words(model.condition),
        "dim": model.condition_dim,
    }


def _about(run: Run) -> str:
    config, evaluation = run.config, run.evaluation
    parts = [f"{run.path.name}: preset {config.preset}, D = {run.model.latent_dim}"]
    if run.model.condition is not None:
        parts.append(f"conditioned on {condition_in_words(run.model.condition)}")
    if evaluation is not None:
        elbo = evaluation["elbo"]
        error = "" if elbo.standard_error is None else f" ± {elbo.standard_error:.2f}"
        parts.append(f"test ELBO {elbo.mean:.2f}{error} nats")
    return ", ".join(parts)


def _means(model: VAE, x: Tensor) -> Tensor:
    """Where q(z|x) lies, (N, D): z at ε = 0, or the mean of some draws."""
    q = model.posterior(x)
    try:
        return q.at_noise(torch.zeros_like(q.rsample())).z
    except NotImplementedError:
        return q.rsample((_MEAN_DRAWS,), torch.Generator(x.device).manual_seed(0)).mean(0)


def _directions(z: Tensor) -> dict[str, Any]:
    """The axes of latent space; before them, where D > 2, the principal components of the data."""
    D, count = z.shape[1], 0
    vectors = np.eye(D)[:_MOST_AXES]
    names = [axis_name(d) for d in range(len(vectors))] if D > 1 else ["z"]
    if D > 2 and len(z) > 1:
        principal, principal_names = principal_directions(np.cov(z.cpu().double().numpy().T))
        count = min(_PRINCIPAL, D)
        vectors = np.concatenate([principal[:count], vectors])
        names = [*principal_names[:count], *names]
    along = torch.from_numpy(vectors).to(z)
    scales = (z @ along.T).std(0, correction=0)
    return {
        "names": names,
        "scales": scales.tolist(),
        "steps": _STEPS,
        "vectors": along,
        "components": count,
    }


def _classes(run: Run, labels: Tensor | None) -> tuple[list[str], list[int]]:
    """Names and values of the classes; none where labels are quantities, or too many."""
    if labels is None or labels.is_floating_point():
        return [], []
    values = labels.unique().tolist()
    if len(values) > _MOST_CLASSES:
        return [], []
    names = run.dataset.label_names
    return ["unknown" if v < 0 else str(v) if names is None else names[v] for v in values], values


def _codes(split: Split, values: list[int], arrays: Arrays) -> int | None:
    if not values or split.labels is None:
        return None
    place = {value: code for code, value in enumerate(values)}
    return arrays.add(np.array([place[v] for v in split.labels.tolist()]), "i4")


def _channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) if len(shape) == 2 else (shape[-1],) if shape[-1] in (1, 3) else (shape[0],)


def _in_unit_interval(run: Run) -> bool:
    return run.dataset.statistics.low >= 0 and run.dataset.statistics.high <= 1


def _shape(model: VAE, x: Tensor, image: bool) -> dict[str, Any]:
    shape = model.data_shape
    gaps = x.isnan()
    if not image:
        low, high = x.masked_fill(gaps, inf).amin(0), x.masked_fill(gaps, -inf).amax(0)
        nothing = low > high  # of a value that all of these data lack
        low, high = low.masked_fill(nothing, 0.0), high.masked_fill(nothing, 1.0)
        names = value_names(model.data_dim, model.columns)
        return {"kind": "values", "names": names, "low": low.tolist(), "high": high.tolist()}
    seen = x[~gaps] if not gaps.all() else torch.zeros(1)
    low, high = min(0.0, seen.min().item()), max(1.0, seen.max().item())
    if low < 0 or high > 1:  # not pixels between black and white: as far as these data go
        low, high = seen.min().item(), seen.max().item()
    (channels,) = _channels(shape)
    last = len(shape) == 3 and shape[-1] == channels
    height, width = shape[:2] if len(shape) == 2 or last else shape[1:]
    return {
        "kind": "image",
        "height": height,
        "width": width,
        "channels": channels,
        "channels_last": last,
        "low": low,
        "high": high,
    }

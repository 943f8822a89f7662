"""Whether an exported file says what the model says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from flowvae.data.columns import Column
from flowvae.errors import UserError
from flowvae.exporting.graphs import Graph
from flowvae.exporting.programs import Runner
from flowvae.vae import VAE

__all__ = ["BATCHES", "TOLERANCE", "check_inputs", "difference"]

BATCHES = (1, 64)
TOLERANCE = 1e-5
_MISSING = 0.3  # of the values, where some may be


@torch.no_grad()
def check_inputs(model: VAE, graphs: Sequence[Graph], seed: int = 0) -> dict[str, list[Tensor]]:
    """Inputs of every graph, a batch of the largest size: data that the model itself draws.

    Args:
        model: the model.
        graphs: of it, ``encode`` first.
        seed: of the draws.
    """
    generator, count = torch.Generator().manual_seed(seed), max(BATCHES)
    given = None if model.condition is None else _conditions(model.condition, count, generator)
    z, _ = model.draw_prior(count, generator, given)
    eps = torch.randn(z.shape, generator=generator)
    x = model.draw(z, generator, given).to(z.dtype)
    if model.missing:
        x[torch.rand(x.shape, generator=generator) < _MISSING] = torch.nan
    known = {"x": x, "z": z, "eps": eps, "uniform": torch.rand(count, generator=generator)}
    known |= {} if given is None else {"condition": given}
    encoded = graphs[0].module(*(known[name] for name in graphs[0].example))
    known |= dict(zip(graphs[0].outputs, encoded, strict=True))
    return {graph.name: [known[name] for name in graph.example] for graph in graphs}


def _conditions(columns: Sequence[Column], count: int, generator: torch.Generator) -> Tensor:
    """Conditions (count, C): categories drawn evenly, numbers as standardised ones lie."""
    parts = []
    for column in columns:
        if column.kind == "numeric":
            parts.append(torch.randn(count, 1, generator=generator))
            continue
        code = torch.randint(len(column.categories), (count,), generator=generator)
        binary = column.kind == "binary"
        parts.append(code[:, None].float() if binary else one_hot(code, column.width).float())
    return torch.cat(parts, 1)


@torch.no_grad()
def difference(
    graph: Graph, run: Runner, inputs: Sequence[Tensor], file: str
) -> Mapping[str, float]:
    """The largest difference of every output from PyTorch's, over the data of all batches.

    For a datum's output a from the file, and b from the model with the kernels that it always has,

        max_i |a_i - b_i| / (1 + max_i |b_i|)

    Args:
        graph: what was exported.
        run: the file.
        inputs: of the largest batch.
        file: its name, for messages.

    Raises:
        UserError: it is above ``TOLERANCE``, or shapes differ.
    """
    found = dict.fromkeys(graph.outputs, 0.0)
    for count in BATCHES:
        part = [value[:count].contiguous() for value in inputs]
        expected = graph.module(*part)
        got = run(*(value.numpy() for value in part))
        for name, a, b in zip(graph.outputs, got, expected, strict=True):
            if a.shape != tuple(b.shape):
                raise UserError(
                    f"export: {file} gives {name} of shape {a.shape}, PyTorch {tuple(b.shape)}"
                )
            if b.numel() == 0:
                continue
            rows, reference = a.reshape(count, -1), b.numpy().reshape(count, -1)
            gap = np.abs(rows - reference).max(1) / (1 + np.abs(reference).max(1))
            found[name] = max(found[name], float(gap.max()))
            if not gap.max() <= TOLERANCE:  # NaN, too
                raise UserError(
                    f"export: {file} differs from PyTorch: {name} by {gap.max():.1e} at a batch of "
                    f"{count}, relative to 1 + its largest value; allowed is {TOLERANCE:g}. "
                    "Nothing was written"
                )
    return found

"""Whether an exported file says what the model says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from flowvae.errors import UserError
from flowvae.exporting.graphs import Graph
from flowvae.exporting.programs import Runner
from flowvae.vae import VAE

__all__ = ["BATCHES", "TOLERANCE", "check_inputs", "difference"]

BATCHES = (1, 64)
TOLERANCE = 1e-5


@torch.no_grad()
def check_inputs(model: VAE, graphs: Sequence[Graph], seed: int = 0) -> dict[str, list[Tensor]]:
    """Inputs of every graph, a batch of the largest size: data that the model itself draws.

    Args:
        model: the model.
        graphs: of it, ``encode`` first.
        seed: of the draws.
    """
    generator, count = torch.Generator().manual_seed(seed), max(BATCHES)
    z = model.prior().rsample((count,), generator)
    eps = torch.randn(z.shape, generator=generator)
    x = model.draw(z, generator).to(z.dtype)
    known = {"x": x, "z": z, "eps": eps, "uniform": torch.rand(count, generator=generator)}
    known |= dict(zip(graphs[0].outputs, graphs[0].module(x), strict=True))
    return {graph.name: [known[name] for name in graph.example] for graph in graphs}


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

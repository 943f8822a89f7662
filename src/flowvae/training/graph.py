"""A training update as one CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from flowvae.terms import ElboTerms

__all__ = ["StepGraph"]

Update = Callable[[list[Tensor]], ElboTerms]


class StepGraph:
    """Runs an update a few times as it is, then records it and replays the record.

    A recorded update is one launch instead of some hundred. What it reads and writes must stay at
    its place: the batch is copied to where the record reads it, and all batches have one shape. The
    first updates are ordinary ones, on a stream of their own, during which kernels are compiled
    and the optimizer's state comes to be. Where recording fails, updates go on as they are, and a
    warning says why.
    """

    WARM_UP = 3

    def __init__(self, update: Update, generator: torch.Generator | None = None) -> None:
        self._update, self._generator = update, generator
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._x = torch.empty(0)
        self._terms: ElboTerms | None = None
        self._failed = False

    def __call__(self, xs: list[Tensor]) -> ElboTerms:
        if self._failed:
            return self._update(xs)
        if self._calls < self.WARM_UP:
            self._calls += 1
            return self._beside(xs)
        if self._graph is None and not self._record(xs[0]):
            return self._update(xs)
        assert self._graph is not None  # noqa: S101 - _record made it
        assert self._terms is not None  # noqa: S101
        self._x.copy_(xs[0])
        self._graph.replay()
        return self._terms

    def _beside(self, xs: list[Tensor]) -> ElboTerms:
        stream, main = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(main)
        with torch.cuda.stream(stream):
            terms = self._update(xs)
        main.wait_stream(stream)
        return terms

    def _record(self, x: Tensor) -> bool:
        self._x = x.clone()
        graph = torch.cuda.CUDAGraph()
        if self._generator is not None:
            graph.register_generator_state(self._generator)
        try:
            with torch.cuda.graph(graph):
                self._terms = self._update([self._x])
        except Exception as error:  # noqa: BLE001 - whatever the model does that a graph cannot
            self._failed, self._terms = True, None
            reason = " ".join(str(error).split())
            warnings.warn(
                f"training: the update could not be recorded as a CUDA graph, so it runs kernel by "
                f"kernel, slower: {type(error).__name__}: {reason:.300}",
                stacklevel=2,
            )
            return False
        self._graph = graph
        return True

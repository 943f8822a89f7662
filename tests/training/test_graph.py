"""An update recorded as a CUDA graph, by a stand-in for CUDA."""

from __future__ import annotations

import pytest
import torch

from flowvae.terms import ElboTerms
from flowvae.training.graph import StepGraph


class _Graphs:
    """What StepGraph uses of torch.cuda, on the CPU: a record is replayed by computing anew."""

    def __init__(self, monkeypatch, fails: bool = False) -> None:
        self.replays = 0
        graphs = self

        class Graph:
            def register_generator_state(self, generator) -> None:
                del generator

            def replay(self) -> None:
                graphs.replays += 1

        class Nothing:
            def __init__(self, *_: object) -> None: ...
            def wait_stream(self, other: object) -> None: ...
            def __enter__(self) -> None:
                if fails:
                    raise RuntimeError("operation not permitted when stream is capturing")

            def __exit__(self, *_: object) -> None: ...

        class Stream(Nothing):
            def __enter__(self) -> None: ...

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Nothing)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", Stream)


def _counted() -> tuple[list[torch.Tensor], StepGraph]:
    seen: list[torch.Tensor] = []

    def update(xs: list[torch.Tensor]) -> ElboTerms:
        seen.append(xs[0])
        return ElboTerms(*(torch.zeros(1, 1) for _ in range(4)))

    return seen, StepGraph(update, torch.Generator())


def test_a_recorded_update_is_replayed_on_the_batch_at_its_place(monkeypatch):
    graphs = _Graphs(monkeypatch)
    seen, step = _counted()
    for i in range(8):
        step([torch.full((2,), float(i))])
    assert len(seen) == StepGraph.WARM_UP + 1  # as they are, and once recorded
    assert graphs.replays == 8 - StepGraph.WARM_UP
    assert seen[-1].tolist() == [7.0, 7.0]  # where the record reads


def test_an_update_that_cannot_be_recorded_goes_on_as_it_is(monkeypatch):
    _Graphs(monkeypatch, fails=True)
    seen, step = _counted()
    for i in range(StepGraph.WARM_UP):
        step([torch.full((2,), float(i))])
    with pytest.warns(UserWarning, match="not be recorded.*RuntimeError: operation not permitted"):
        step([torch.ones(2)])
    step([torch.ones(2)])
    assert len(seen) == StepGraph.WARM_UP + 2

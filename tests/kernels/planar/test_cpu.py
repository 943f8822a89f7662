"""The CPU kernels of the planar flow: ways through memory."""

from __future__ import annotations

import pytest

pytest.importorskip("numba")

import torch
from torch import Tensor

from flowvae.flows import planar_flow, planar_flow_inverse


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [planar_flow, planar_flow_inverse])
@pytest.mark.parametrize("D", [5, 16, 24])
def test_results_do_not_depend_on_the_way_through_memory(function, dtype, D):
    """Gradients of some MiB are written around the cache, those of a few rows are not."""
    inputs = _inputs(dtype, 6007, 9, D)
    parts = [
        _with_gradients(function, [each[start : start + 64] for each in inputs])
        for start in range(0, len(inputs[0]), 64)
    ]
    for whole, *some in zip(_with_gradients(function, inputs), *parts, strict=True):
        assert torch.equal(whole, torch.cat(some))


def _inputs(dtype: torch.dtype, P: int, K: int, D: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (P, D), (P, K, D), (P, K, D), (P, K)
    return [0.5 * torch.randn(*s, dtype=dtype, generator=generator) for s in shapes]


def _with_gradients(function, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    end, ladj = function(*leaves)
    loss = end.square().sum() + ladj.sum()
    return [end.detach(), ladj.detach(), *torch.autograd.grad(loss, leaves)]

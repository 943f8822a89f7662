"""The CPU kernels of the planar flow: ways through memory."""

from __future__ import annotations

import pytest

pytest.importorskip("numba")

import torch
from torch import Tensor

from flowvae.flows import planar_flow, planar_flow_inverse
from flowvae.kernels.planar import cpu_launch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [planar_flow, planar_flow_inverse])
@pytest.mark.parametrize("D", [5, 16, 24])
def test_results_do_not_depend_on_the_way_through_memory(function, dtype, D, monkeypatch):
    """Large gradients are written around the cache."""
    inputs = _inputs(dtype, 37, 9, D)
    before = _with_gradients(function, inputs)
    monkeypatch.setattr(cpu_launch, "_WORTH_A_DETOUR", 0)
    for a, b in zip(_with_gradients(function, inputs), before, strict=True):
        assert torch.equal(a, b)


def _inputs(dtype: torch.dtype, P: int, K: int, D: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (P, D), (P, K, D), (P, K, D), (P, K)
    return [0.5 * torch.randn(*s, dtype=dtype, generator=generator) for s in shapes]


def _with_gradients(function, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    end, ladj = function(*leaves)
    loss = end.square().sum() + ladj.sum()
    return [end.detach(), ladj.detach(), *torch.autograd.grad(loss, leaves)]

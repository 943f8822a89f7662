"""Derivatives of every kind, and an inverse that is exact where w is small."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowvae.flows import planar_flow, planar_flow_inverse, reference


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("function", [planar_flow, planar_flow_inverse])
def test_derivatives_of_every_kind_agree(function):
    """Backwards one by one, all at once, forwards, and by torch.func, of both directions."""
    torch.manual_seed(0)
    inputs = [torch.randn(*s).double() for s in ((5, 3), (5, 4, 3), (5, 4, 3), (5, 4))]

    def end(z: Tensor, w: Tensor, u: Tensor, b: Tensor) -> Tensor:
        return function(z, w, u, b)[0]

    jacobian = torch.autograd.functional.jacobian
    for k in range(4):
        others = inputs.copy()

        def of_one(x: Tensor, k: int = k, others: list[Tensor] = others) -> Tensor:
            others[k] = x
            return end(*others).sum(0)

        expected = jacobian(of_one, inputs[k])
        assert expected.abs().max() > 0.1
        for how in ("reverse-mode", "forward-mode"):
            found = jacobian(of_one, inputs[k], vectorize=True, strategy=how)
            torch.testing.assert_close(found, expected)
    backwards = torch.vmap(torch.func.jacrev(end))(*inputs)
    forwards = torch.vmap(torch.func.jacfwd(end))(*inputs)
    torch.testing.assert_close(backwards, forwards)
    of_one_set = torch.vmap(end, in_dims=(0, None, None, None))
    some = [x[0] for x in inputs[1:]]
    torch.testing.assert_close(of_one_set(inputs[0], *some), end(inputs[0], *some))


@pytest.mark.parametrize("function", [planar_flow, planar_flow_inverse])
def test_second_derivatives_in_some_of_the_inputs_alone(function):
    torch.manual_seed(0)
    inputs = [torch.randn(*s).double() for s in ((5, 3), (5, 4, 3), (5, 4, 3), (5, 4))]
    for k in range(4):
        others = inputs.copy()
        x = others[k].clone().requires_grad_()

        def of_one(x: Tensor, k: int = k, others: list[Tensor] = others) -> tuple[Tensor, Tensor]:
            return function(*others[:k], x, *others[k + 1 :])

        assert torch.autograd.gradgradcheck(of_one, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("scale", [1e-18, 1e-12, 1e-6, 1e-3, 0.1])
def test_the_inverse_is_exact_where_w_is_small(scale, shared, dtype):
    """1/‖w‖ magnifies no rounding of b. Under the other constraint û grows as 1/‖w‖ there."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    z, sets = (normal(99, 1, 3), (1,)) if shared else (normal(99, 3), (99,))
    w, u, b = scale * normal(*sets, 8, 3), normal(*sets, 8, 3), normal(*sets, 8)
    error = 100 * torch.finfo(dtype).eps
    for forward, inverse in (
        (planar_flow, planar_flow_inverse),
        (reference.forward, reference.inverse),
    ):
        constraint = "centred" if forward is planar_flow else reference.SHIFTS["centred"]
        end, _ = forward(z, w, u, b, constraint)
        found, _ = inverse(end, w, u, b, constraint)
        assert (found - z).abs().max() < error

"""Reflections at normals of any length."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowvae.flows.householder import HouseholderTransform
from flowvae.flows.sylvester import HouseholderBasis


@given(exponent=st.integers(-37, 37), seed=st.integers(0, 999))
def test_the_length_of_a_normal_changes_nothing(exponent, seed):
    """In float32, whose squares end at 1e-38 and 1e38."""
    generator = torch.Generator().manual_seed(seed)
    z, v = torch.randn(4, 3, generator=generator), torch.randn(4, 2, 3, generator=generator)
    scaled = (v.double() * 10.0**exponent).float().requires_grad_()
    found = HouseholderTransform(scaled)(z)
    expected = HouseholderTransform(v.double())(z.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    back = HouseholderTransform(scaled).inv(found)
    torch.testing.assert_close(back, z, rtol=1e-4, atol=1e-5)
    basis = HouseholderBasis(scaled.unsqueeze(-3))
    torch.testing.assert_close(basis.expand(0, basis.project(0, z)), z, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad((found * z.flip(0)).sum(), scaled)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("v", [0.0, 1e-45, 3e38])
def test_extremes_are_finite(v):
    normal = torch.tensor([[v, 0.0, 0.0]])
    z = HouseholderTransform(normal)(torch.tensor([3.0, 4.0, 5.0]))
    torch.testing.assert_close(z, torch.tensor([3.0 if v == 0 else -3.0, 4.0, 5.0]))


@pytest.mark.parametrize("v", [0.0, 1e-30, 3e38])  # at 1e-45 it is beyond float32
def test_gradients_at_extremes_are_finite(v):
    normal = torch.tensor([[v, 0.0, 0.0]], requires_grad=True)
    z = HouseholderTransform(normal)(torch.tensor([3.0, 4.0, 5.0]))
    (gradient,) = torch.autograd.grad(z.sum(), normal)
    assert gradient.isfinite().all()

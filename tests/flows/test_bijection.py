"""Every family of flows is a ``torch.distributions.Transform``."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution, constraints

import flowvae
from flowvae.distributions import FlowDistribution
from flowvae.flows import Bijection
from flowvae.flows.radial import RadialTransform
from flowvae.registry import POSTERIORS
from tests.helpers.families import needs

FLOWS = [name for name in POSTERIORS if "gaussian" not in name]


def bijection(name: str, D: int = 4, K: int = 3, batch: int = 5) -> Bijection:
    needs(name)
    config = flowvae.Config(posterior=name, latent_dim=D, num_flows=K, seed=1)
    model = flowvae.build_vae(config, (6,)).double()
    q = model.posterior(torch.rand(batch, 6, dtype=torch.float64))
    assert isinstance(q, FlowDistribution)
    return q.bijection


@pytest.mark.parametrize("name", FLOWS)
def test_it_is_a_transform(name):
    f = bijection(name)
    z = torch.randn(7, 5, 4, dtype=torch.float64)
    z_K, ladj = f.forward_and_ladj(z)
    assert f.bijective
    assert f.domain is f.codomain is constraints.real_vector
    torch.testing.assert_close(f(z), z_K)
    torch.testing.assert_close(f.call_and_ladj(z), (z_K, ladj))
    torch.testing.assert_close(f.log_abs_det_jacobian(z, z_K), ladj)
    torch.testing.assert_close(f.inv(z_K), z, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(f.inv.log_abs_det_jacobian(z_K, z), -ladj, rtol=1e-7, atol=1e-7)
    assert f.inv.inv is f
    assert f.inv.num_flows == f.num_flows == 3
    with pytest.raises(NotImplementedError, match="last first"):
        f.inv.first(1)


@pytest.mark.parametrize("name", FLOWS)
def test_a_transformed_distribution_knows_its_density_anywhere(name):
    base = Independent(Normal(torch.zeros(1, 2).double(), 1.0), 1)
    q = TransformedDistribution(base, [bijection(name, D=2, batch=1)])
    axis = torch.linspace(-9, 9, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).unsqueeze(1)
    with torch.no_grad():
        total = q.log_prob(grid).exp().sum(0) * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", FLOWS)
def test_first_layers_make_the_whole(name):
    """ladj of k layers is the log-determinant of those k layers."""
    f = bijection(name, D=3, K=4, batch=1)
    z = torch.randn(1, 3, dtype=torch.float64)
    assert f.num_flows == 4
    for k in range(5):
        part = f.first(k)
        assert part.num_flows == k
        jacobian = torch.autograd.functional.jacobian(part, z).reshape(3, 3)
        truth = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(part.forward_and_ladj(z)[1][0], truth, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(f.first(4)(z), f(z))


@pytest.mark.parametrize("name", FLOWS)
def test_detached_is_the_same_map_without_a_graph(name):
    f = bijection(name)
    z = torch.randn(5, 4, dtype=torch.float64)
    for method in ("forward_and_ladj", "inverse_and_ladj"):
        free, constant = getattr(f, method)(z), getattr(f.detached(), method)(z)
        torch.testing.assert_close(constant, free)
        assert free[0].requires_grad
        assert not constant[0].requires_grad


def test_a_cached_pair_belongs_to_its_own_map():
    f = bijection("radial").with_cache()
    z = torch.randn(5, 4, dtype=torch.float64)
    assert f(z) is f(z)
    assert f._inv_call(f(z)) is z
    assert not torch.allclose(f.first(1)(z), f(z))
    assert not f.detached()(z).requires_grad
    assert f.with_cache(0)(z) is not f(z)


def test_a_radial_layer_at_its_centre_and_parameters_that_broadcast():
    alpha = torch.zeros(3, requires_grad=True)
    flow = RadialTransform(torch.zeros(3, 2), alpha, torch.ones(3))
    z, ladj = flow.inverse_and_ladj(torch.zeros(1, 2))
    (gradient,) = torch.autograd.grad(z.sum() + ladj.sum(), alpha)
    assert gradient.isfinite().all()
    flow = RadialTransform(torch.randn(3, 2), torch.randn(4, 3), torch.randn(4, 3))
    z = torch.randn(2)
    z_K, ladj = flow.forward_and_ladj(z)
    assert (z_K.shape, ladj.shape) == ((4, 2), (4,))
    back, ladj_back = flow.inverse_and_ladj(z_K)
    torch.testing.assert_close(back, z.expand(4, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(ladj_back, -ladj, rtol=0, atol=1e-5)

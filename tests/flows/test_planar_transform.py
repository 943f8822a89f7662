"""The planar flow behind the interfaces of torch.distributions, Pyro and zuko."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution, constraints

from flowvae.flows import CONSTRAINTS, PlanarFlow, PlanarTransform, planar_flow

both = pytest.mark.parametrize("constraint", CONSTRAINTS)


def transform(constraint="paper", K=4, D=3, batch=(), seed=0, cache_size=0) -> PlanarTransform:
    generator = torch.Generator().manual_seed(seed)
    shapes = (*batch, K, D), (*batch, K, D), (*batch, K)
    w, u, b = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes)
    return PlanarTransform(w, u, b, constraint, cache_size)


@both
def test_it_is_a_bijection_with_its_log_determinant(constraint):
    flow = transform(constraint, batch=(6,))
    x = torch.randn(6, 3).double()
    y, ladj = flow.call_and_ladj(x)
    assert flow.bijective
    assert flow.domain is flow.codomain is constraints.real_vector
    torch.testing.assert_close((y, ladj), planar_flow(x, flow.w, flow.u, flow.b, constraint))
    torch.testing.assert_close(flow.log_abs_det_jacobian(x, y), ladj)
    torch.testing.assert_close(flow(x), y)
    back, back_ladj = flow.inv.call_and_ladj(y)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(back_ladj, -ladj)
    torch.testing.assert_close(flow.inv(y), x)
    torch.testing.assert_close(flow.inv.log_abs_det_jacobian(y, x), -ladj)
    assert flow.inv.inv is flow
    for k in range(6):
        one = PlanarTransform(flow.w[k], flow.u[k], flow.b[k], constraint)
        J = torch.autograd.functional.jacobian(one, x[k])
        assert torch.linalg.slogdet(J).logabsdet.item() == pytest.approx(ladj[k].item(), abs=1e-9)


def test_cache_keeps_the_pair():
    flow = transform(cache_size=1)
    x = torch.randn(5, 3).double()
    assert flow._inv_call(flow(x)) is x
    assert flow.with_cache(0)._cache_size == 0


@both
def test_transformed_distribution_knows_its_density_anywhere(constraint):
    q = TransformedDistribution(
        Independent(Normal(torch.zeros(2).double(), 1.0), 1), [transform(constraint, D=2)]
    )
    axis = torch.linspace(-12, 12, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    total = q.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1.0, abs=1e-4)


def test_a_density_is_fitted():
    """Two clumps: the flow beats the best Gaussian by much of the gap to the truth."""
    torch.manual_seed(0)
    side = torch.where(torch.rand(2000) < 0.5, -2.0, 2.0)
    data = torch.stack([side + 0.5 * torch.randn(2000), torch.randn(2000)], -1)
    flow = PlanarFlow(dim=2, num_flows=8)
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-2)
    loss = torch.tensor(0.0)
    for _ in range(400):
        optimizer.zero_grad()
        loss = -flow().log_prob(data).mean()
        loss.backward()
        optimizer.step()
    gaussian = Independent(Normal(data.mean(0), data.std(0)), 1).log_prob(data).mean()
    entropy = math.log(2) + math.log(0.5) + math.log(2 * math.pi * math.e)
    assert gaussian + 0.2 < -loss.detach() < -entropy + 0.1
    assert flow().sample((1000,))[:, 0].abs().mean() > 1.3


@pytest.mark.usefixtures("unchecked")
def test_module_refuses_bad_sizes():
    with pytest.raises(ValueError, match="dim, num_flows: expected at least 1 and 0, got 0 and 3"):
        PlanarFlow(0, 3)
    with pytest.raises(ValueError, match="constraint: expected one of"):
        PlanarFlow(2, 3, "none")


def test_inside_pyro():
    pyro = pytest.importorskip("pyro", reason="pyro is not installed")
    flow = transform(batch=(5,))
    base = pyro.distributions.Normal(torch.zeros(5, 3).double(), 1.0).to_event(1)
    q = pyro.distributions.TransformedDistribution(base, [flow])
    z = q.sample()
    torch.testing.assert_close(
        q.log_prob(torch.randn(5, 3).double()).isfinite(), torch.ones(5, dtype=torch.bool)
    )
    assert z.shape == (5, 3)


def test_a_planar_guide_beats_a_mean_field_one_and_stays_below_the_evidence(capsys):
    pytest.importorskip("pyro", reason="pyro is not installed")
    from examples import pyro_guide

    found = list(pyro_guide.main(["--steps", "300", "--num-flows", "8"]).values())
    evidence, mean_field, planar = found
    assert mean_field < planar < evidence
    assert f"{planar:.3f} nats" in capsys.readouterr().out


def test_inside_zuko():
    zuko = pytest.importorskip("zuko", reason="zuko is not installed")
    flow = transform()
    q = zuko.distributions.NormalizingFlow(
        flow, zuko.distributions.DiagNormal(torch.zeros(3).double(), torch.ones(3).double())
    )
    x, log_q = q.rsample_and_log_prob((10,))
    torch.testing.assert_close(q.log_prob(x), log_q)

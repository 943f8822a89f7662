"""Every posterior of the registry: densities, log-determinants, inverses, extremes."""

from __future__ import annotations

import pytest
import torch

from flowvae.config import build
from flowvae.distributions import FlowDistribution
from flowvae.registry import POSTERIORS
from tests.helpers.families import H, needs, posterior, where_they_have_it

FLOWS = [name for name in POSTERIORS if "gaussian" not in name]


@pytest.mark.parametrize("amortized", [True, False])
@pytest.mark.parametrize("D", [1, 3])
@pytest.mark.parametrize("name", POSTERIORS)
def test_shapes_and_density_of_the_draws(name, D, amortized):
    """log q of what was drawn, and of the same points by the inverse."""
    q = posterior(name, D, scale=1.5, amortized=amortized)
    assert (q.batch_shape, q.event_shape) == ((4,), (D,))
    z, log_base, ladj = q.rsample_terms((5,))
    assert z.shape == (5, 4, D)
    assert log_base.shape == ladj.shape == (5, 4)
    torch.testing.assert_close(q.log_prob(z), log_base - ladj, rtol=1e-6, atol=1e-6)
    assert q.rsample().shape == (4, D)
    assert q.sample((2, 3)).shape == (2, 3, 4, D)
    assert q.log_prob(z[0]).shape == (4,)


@pytest.mark.parametrize("name", POSTERIORS)
def test_draws_come_from_the_generator(name):
    q = posterior(name)
    before = torch.get_rng_state()
    first = q.rsample((4,), torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(q.rsample((4,), torch.Generator().manual_seed(5)), first)
    assert not torch.equal(q.rsample((4,), torch.Generator().manual_seed(6)), first)


@pytest.mark.parametrize(("K", "scale"), [(1, 6.0), (3, 1.5)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FLOWS)
def test_log_determinant_is_autograds(name, seed, K, scale):
    """One layer at large parameters, where three would leave slogdet without digits; and three."""
    D = 2 + 2 * seed
    q = posterior(name, D, K, batch=1, scale=scale, seed=seed)
    assert isinstance(q, FlowDistribution)
    for z in 2 * torch.randn(5, 1, D, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(lambda z: q.flow(z)[0], z)
        sign, truth = torch.linalg.slogdet(jacobian.reshape(D, D))
        _, ladj = q.flow(z)
        assert sign.abs().item() == 1
        torch.testing.assert_close(ladj[0], truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", FLOWS)
def test_the_inverse_is_exact(name, scale):
    q = posterior(name, 4, scale=scale)
    assert isinstance(q, FlowDistribution)
    z = torch.randn(7, 4, 4, dtype=torch.float64)
    z_K, ladj = q.flow(z)
    again, inverse_ladj = q.flow_inverse(z_K)
    torch.testing.assert_close(again, z, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(inverse_ladj, -ladj, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", POSTERIORS)
def test_density_integrates_to_one(name):
    q = posterior(name, 2, batch=1)
    axis = torch.linspace(-9, 9, 401, dtype=torch.float64)
    with torch.no_grad():
        density = q.log_prob(torch.cartesian_prod(axis, axis).unsqueeze(-2)).exp()
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", FLOWS)
def test_first_flows_and_detached(name):
    q = posterior(name, 3)
    assert isinstance(q, FlowDistribution)
    z = torch.randn(5, 4, 3, dtype=torch.float64)
    assert q.num_flows == 3
    z_0, ladj = q.first(0).flow(z)
    torch.testing.assert_close(z_0, z)
    assert ladj.abs().max() == 0
    torch.testing.assert_close(q.first(3).flow(z), q.flow(z))
    assert not torch.allclose(q.first(1).flow(z)[0], q.flow(z)[0])


@pytest.mark.parametrize("name", POSTERIORS)
def test_detached_is_the_same_distribution_without_gradients_to_its_parameters(name):
    q = posterior(name, 3)
    z = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    fixed = q.detached().log_prob(z)
    torch.testing.assert_close(fixed, q.log_prob(z))
    graph, seen = [fixed.grad_fn], set()
    while graph:  # every leaf that the value depends on
        node = graph.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        assert leaf is None or leaf is z
        graph += [parent for parent, _ in node.next_functions]


@pytest.mark.parametrize("amortized", [True, False])
@pytest.mark.parametrize("name", POSTERIORS)
def test_no_flows_is_the_gaussian(name, amortized):
    q = posterior(name, 3, K=0, amortized=amortized)
    z, log_q = q.rsample_and_log_prob((5,))
    base = getattr(q, "base", q)
    torch.testing.assert_close(log_q, base.log_prob(z))
    torch.testing.assert_close(q.log_prob(z), log_q)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", POSTERIORS)
def test_float32_extremes_are_finite(name, seed):
    """Every number a head writes is ±100; log-density, draw and gradients stay finite."""
    needs(name)
    config = where_they_have_it(posterior=name, num_flows=4, num_orthogonal=2)
    torch.manual_seed(seed)
    head = build("posterior", config.model.posterior, in_features=H, latent_dim=3)
    with torch.no_grad():
        head.heads.weight.zero_()
        signs = torch.randint(0, 2, head.heads.bias.shape) * 2 - 1
        head.heads.bias.copy_(100.0 * signs)
        if name == "iaf":  # whose weights have gradients like z², beyond float32 at σ = exp(50)
            head.heads.bias.clamp_(-30, 30)
    features = torch.randn(5, H, requires_grad=True)
    z, log_q = head(features).rsample_and_log_prob((3,))
    assert z.isfinite().all()
    assert log_q.isfinite().all()
    # z may be as large as exp(50); its own gradient is what must not be NaN.
    (log_q.sum() + torch.tanh(z).sum()).backward()
    for key, parameter in head.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key

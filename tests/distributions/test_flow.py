"""Densities of planar flows against histograms and quadrature."""

from __future__ import annotations

import pytest
import torch

from flowvae.distributions import DiagonalGaussian, FlowDistribution
from flowvae.figures.posterior import mesh_density
from flowvae.flows import CONSTRAINTS, PlanarTransform


def planar(constraint="paper", scale=1.5, K=4, D=2, batch=(), seed=0) -> FlowDistribution:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return scale * torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    base = DiagonalGaussian(normal(D), normal(D) - 1)
    return FlowDistribution(
        base, PlanarTransform(normal(K, D), normal(K, D), normal(K), constraint)
    )


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("seed", range(3))
def test_density_is_a_histogram_of_the_samples(constraint, seed):
    """E[1/q · 1(z in A)] is the area of A, for every bin A that q covers."""
    q = planar(constraint, seed=seed, scale=1.0)
    generator = torch.Generator().manual_seed(seed)
    z, log_q = q.rsample_and_log_prob((400_000,), generator)
    low, high = z.quantile(0.2, dim=0), z.quantile(0.8, dim=0)
    bins = 4
    index = ((z - low) / (high - low) * bins).floor().long()
    inside = ((index >= 0) & (index < bins)).all(-1)
    flat = index[inside, 0] * bins + index[inside, 1]
    weights = (-log_q[inside]).exp()
    total = torch.zeros(bins**2).double().index_add(0, flat, weights)
    squares = torch.zeros(bins**2).double().index_add(0, flat, weights**2)
    mean = total / len(z)
    error = (squares / len(z) - mean**2).sqrt() / len(z) ** 0.5
    area = ((high - low) / bins).prod()
    # Bins that q fills well enough for the central limit theorem to speak.
    counts = torch.bincount(flat, minlength=bins**2)
    heaviest = torch.zeros(bins**2).double().scatter_reduce(0, flat, weights, "amax")
    trusted = (counts > 2000) & (heaviest < 20 * total / counts)
    assert trusted.sum() >= 4
    assert ((mean - area).abs() < 5 * error)[trusted].all()


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("seed", range(4))
def test_density_integrates_to_one(constraint, seed):
    """Over the image of a mesh of ±4 sigma: Σ density · area of the bent cells."""
    q = planar(constraint, seed=seed, scale=0.7, batch=(1,))
    z, density = mesh_density(q)
    diagonal_1, diagonal_2 = z[1:, 1:] - z[:-1, :-1], z[1:, :-1] - z[:-1, 1:]
    cross = diagonal_1[..., 0] * diagonal_2[..., 1] - diagonal_1[..., 1] * diagonal_2[..., 0]
    mean = (density[1:, 1:] + density[:-1, :-1] + density[1:, :-1] + density[:-1, 1:]) / 4
    assert (mean * cross.abs() / 2).sum().item() == pytest.approx(1.0, abs=3e-3)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("seed", range(4))
def test_log_prob_integrates_to_one_and_agrees_with_the_draws(constraint, seed):
    q = planar(constraint, seed=seed, scale=0.7)
    z, log_q = q.rsample_and_log_prob((500,), torch.Generator().manual_seed(0))
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=1e-7, atol=1e-7)
    axis = torch.linspace(-15, 15, 2001, dtype=torch.float64)
    density = q.log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1.0, abs=1e-4)


def test_first_flows_only():
    q = planar(batch=(3,))
    z_0 = q.base.rsample((5,))
    z, total = z_0, torch.zeros(5, 3).double()
    f = q.bijection
    assert isinstance(f, PlanarTransform)
    for k in range(q.num_flows):
        z_k, ladj_k = q.first(k + 1).flow(z_0)
        one = slice(k, k + 1)
        layer = PlanarTransform(f.w[..., one, :], f.u[..., one, :], f.b[..., one], "paper")
        z, ladj = layer.forward_and_ladj(z)
        total = total + ladj
        torch.testing.assert_close(z_k, z)
        torch.testing.assert_close(ladj_k, total)


def test_generator_makes_draws_repeatable_and_leaves_global_state_alone():
    q = planar(batch=(3,))
    before = torch.get_rng_state()
    first = q.rsample((4,), torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(q.rsample((4,), torch.Generator().manual_seed(5)), first)

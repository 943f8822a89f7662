"""Refined posteriors: against exact ones, and never far worse than the encoder's."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

import flowvae
from flowvae.data import Split
from flowvae.distributions import DiagonalGaussian, FullGaussian, SelectedDistribution
from flowvae.evaluation import evaluate_model, quadrature
from flowvae.refined import RefinedVAE
from flowvae.refinement import natural_gradient_steps
from flowvae.registry import POSTERIORS
from tests.helpers import families
from tests.helpers.linear_gaussian import LinearGaussian, linear_model
from tests.helpers.making import seeded
from tests.helpers.vaes import bimodal, data, small


def kl_to_truth(truth: LinearGaussian, x: torch.Tensor, q: SelectedDistribution) -> torch.Tensor:
    assert q.condition.all()
    found = q.first
    assert isinstance(found, FullGaussian)
    return kl_divergence(
        MultivariateNormal(found.loc, scale_tril=found.scale_tril), truth.posterior(x)
    )


@settings(max_examples=25)
@given(
    D=st.integers(1, 6),
    sigma=st.floats(0.05, 2.0),
    shift=st.floats(-2.0, 2.0),
    widen=st.floats(0.2, 5.0),
    seed=st.integers(0, 100),
)
def test_where_the_truth_is_gaussian_it_is_found(D, sigma, shift, widen, seed):
    truth = LinearGaussian(D=D, P=D + 3, sigma=sigma, diagonal=False, seed=seed)
    x = truth.data(5, seed)
    q = linear_model(truth, shift=shift, widen=widen).refine(x, steps=25)
    assert kl_to_truth(truth, x, q).max() < 1e-6


def test_many_dimensions_and_fewer_directions_than_dimensions():
    truth = LinearGaussian(D=12, P=15, sigma=0.6, diagonal=False)
    model, x = linear_model(truth, shift=0.5, widen=1.5), truth.data(20)
    before = [  # KL falls with steps, and with the directions each looks in
        kl_to_truth(truth, x, model.refine(x, steps=steps, samples=samples)).mean()
        for steps, samples in ((10, 8), (10, 16), (20, 16), (20, 24))
    ]
    assert all(later < sooner / 5 for sooner, later in pairwise(before))
    assert before[-1] < 1e-9


@pytest.mark.parametrize("D", [1, 2, 5])
@pytest.mark.parametrize("pairs", [1, 2, 5])
def test_cubature_is_exact_for_a_quadratic(D, pairs):
    """One full step from anywhere within reach lands on the Gaussian whose log-density it is."""
    generator = seeded()
    root = torch.randn(3, D, D, generator=generator, dtype=torch.float64) * 0.3
    precision = root @ root.mT + torch.eye(D)
    target = MultivariateNormal(
        torch.full((3, D), 0.4, dtype=torch.float64), precision_matrix=precision
    )
    start = FullGaussian(*(torch.zeros(3, *shape).double() for shape in ((D,), (D,), (D, D))))
    found = natural_gradient_steps(target.log_prob, start, 1, min(pairs, D), generator)
    if pairs >= D:
        torch.testing.assert_close(found.loc, target.loc)
        torch.testing.assert_close(found.covariance_matrix, target.covariance_matrix)
    else:  # it is not yet there, but nearer
        near = kl_divergence(MultivariateNormal(found.loc, found.covariance_matrix), target)
        far = kl_divergence(MultivariateNormal(start.loc, start.covariance_matrix), target)
        assert (near < far).all()


@pytest.mark.parametrize("name", sorted(POSTERIORS))
def test_every_family_is_refined(name):
    model = families.model(posterior=name, latent_dim=2).eval()
    x = families.data(model, 20)
    kept = [parameter.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    plain, better = (
        evaluate_model(each, Split(x), samples=500)["elbo"].mean
        for each in (model, RefinedVAE(model))
    )
    assert torch.equal(state, torch.get_rng_state())
    assert better > plain - 0.02
    for parameter, old in zip(model.parameters(), kept, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is None


def test_a_datum_does_not_depend_on_the_others_nor_on_the_parts():
    model = small(scale=3.0).eval()
    x = data(model, 40)
    whole = model.refine(x)
    alone = model.refine(x[7:8])
    model.draws_at_once = lambda count=1: 6
    parts = model.refine(x)
    for q, row in ((parts, slice(None)), (alone, slice(7, 8))):
        torch.testing.assert_close(q.first.loc, whole.first.loc[row], atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(q.first.log_var, whole.first.log_var[row], atol=1e-9, rtol=1e-9)
        assert torch.equal(q.condition, whole.condition[row])


@pytest.mark.parametrize("starts", [0, 1, 5000])
def test_no_data_and_one_place(starts):
    model = small().eval()
    q = model.refine(data(model)[:0], starts=starts)
    assert q.rsample((3,)).shape == (3, 0, 2)
    one = model.refine(data(model), starts=starts)
    assert one.rsample((3,)).isfinite().all()


def test_it_is_nearer_by_quadrature_and_says_what_is_refined():
    model = small(K=4, scale=4.0).eval()
    x = data(model, 12)
    refined = RefinedVAE(model, steps=10)
    plain, near = quadrature(model, x), quadrature(refined, x)
    torch.testing.assert_close(plain.log_prob, near.log_prob, atol=3e-3, rtol=0)
    assert plain.kl is not None
    assert near.kl is not None
    assert near.kl.mean() < 0.3 * plain.kl.mean()
    elbo = refined.elbo(x, 4000, seeded()).detach()
    torch.testing.assert_close(elbo, near.log_prob - near.kl, atol=0.1, rtol=0)
    assert refined.encoder is model.encoder
    assert set(refined.state_dict()) == set(model.state_dict())
    assert refined.reconstruct(x, seeded()).shape == x.shape


def test_a_wide_q_far_from_the_truth_is_moved():
    """An encoder that does not know spreads q over everything: the steps start elsewhere."""
    truth = LinearGaussian(D=2, P=6, sigma=0.02)
    x = truth.data(10)
    model = linear_model(truth, shift=3.0, widen=60.0)
    assert kl_to_truth(truth, x, model.refine(x)).max() < 1e-3


def test_of_two_modes_one_is_found_whole():
    model = bimodal()
    x = model.decode(torch.tensor([[1.0, 0.0]], dtype=torch.float64)).mean.detach()
    kl = quadrature(RefinedVAE(model), x).kl
    assert kl is not None
    assert kl.item() == pytest.approx(math.log(2), abs=0.02)


@pytest.mark.parametrize("slope", [math.nan, math.inf, -1e38, 1e30])
def test_a_density_without_a_usable_gradient_does_no_harm(slope):
    start = FullGaussian(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, 2, 2))
    found = natural_gradient_steps(
        lambda z: (z * slope).sum(-1), start, steps=5, pairs=2, generator=seeded()
    )
    for each in (found.loc, found.log_var, found.lower):
        assert each.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"samples": 1}, "samples: expected at least 2, got 1"),
        ({"starts": -1}, "starts: expected at least 0, got -1"),
    ],
)
def test_bad_numbers(options, message):
    model = small()
    with pytest.raises(ValueError, match=message):
        model.refine(data(model), **options)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_in_float32_in_any_mode_and_from_shaped_data(mode):
    model = flowvae.build_vae(flowvae.preset("planar"), (6, 5)).eval()
    with mode():
        x = torch.rand(3, 6, 5, generator=seeded())
        z, log_q = model.refine(x).rsample_and_log_prob((7,), seeded())
    assert z.shape == (7, 3, 2)
    assert log_q.isfinite().all()
    assert not log_q.requires_grad


def test_selected_is_one_or_the_other():
    zeros = torch.zeros(4, 3, dtype=torch.float64)
    first, second = DiagonalGaussian(zeros + 1, zeros), DiagonalGaussian(zeros - 2, zeros + 1)
    condition = torch.tensor([True, False, False, True])
    q = SelectedDistribution(condition, first, second)
    z = torch.randn(5, 4, 3, generator=seeded(), dtype=torch.float64)
    expected = torch.where(condition, first.log_prob(z), second.log_prob(z))
    assert torch.equal(q.log_prob(z), expected)
    drawn, log_q = q.rsample_and_log_prob((5,), seeded())
    torch.testing.assert_close(q.log_prob(drawn), log_q)
    assert torch.equal(q.at_noise(z).z[:, 0], first.at_noise(z).z[:, 0])
    assert torch.equal(q.at_noise(z).z[:, 1], second.at_noise(z).z[:, 1])
    moved = DiagonalGaussian(zeros.clone().requires_grad_(), zeros)
    cut = SelectedDistribution(condition, moved, second).detached()
    assert not cut.log_prob(z).requires_grad

"""Conditional models and missing values against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowvae.evaluation import (
    annealed_importance_sampling,
    bdmc,
    importance_sampling,
    inference_gaps,
    mixture_importance_sampling,
    mutual_information,
    quadrature,
)
from flowvae.evaluation.diagnostics import active_units
from tests.helpers.conditional_gaussian import ConditionalGaussian, kl_of

P = 5
masks = st.lists(st.lists(st.booleans(), min_size=P, max_size=P), min_size=3, max_size=3)


def rows_of(truth: ConditionalGaussian, mask: list[list[bool]] | None = None, count: int = 3):
    """x with gaps, y, and both as rows."""
    x, y = truth.data(count)
    if mask is not None:
        x = torch.where(torch.tensor(mask), x, math.nan)
    return x, y, torch.cat([x, y], -1)


SOME = [
    [True] * P,
    [True, False, True, True, False],
    [False] * P,
    [False, False, False, True, False],
]


@given(mask=masks, seed=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_every_bound_is_log_p_of_what_is_there_where_q_is_exact(mask, seed):
    truth = ConditionalGaussian(seed=seed)
    model = truth.model()
    x, y, rows = rows_of(truth, mask)
    expected = truth.log_prob(x, y)
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(model.elbo(rows, 3, generator), expected)
    torch.testing.assert_close(model.elbo(x, 3, generator, condition=y), expected)
    torch.testing.assert_close(model.iw_bound(x, 7, generator, condition=y), expected)


@given(mask=masks)
@settings(max_examples=25, deadline=None)
def test_gradients_are_those_of_log_p_of_what_is_there(mask):
    truth = ConditionalGaussian()
    model = truth.model()
    x, _, rows = rows_of(truth, mask)
    # At q = p(z|x) the score term has mean zero and the path gradient no variance: with many draws
    # ∇ E_q[log p(x, z)] is ∇ log p(x).
    q = model.posterior(rows)
    generator = torch.Generator().manual_seed(0)
    z = q.rsample((20_000,), generator)
    weight = model.decoder.weight
    (found,) = torch.autograd.grad(model.log_joint(rows, z).mean(0).sum(), weight)
    assert found.isfinite().all()
    truth.W.requires_grad_()
    truth.V.requires_grad_()
    nothing = 0 * (truth.W.sum() + truth.V.sum())  # where all is missing, log p is a constant
    log_p = truth.log_prob(x, rows[:, P:]).sum() + nothing
    wanted = torch.cat(torch.autograd.grad(log_p, [truth.W, truth.V]), 1)
    size = rows[:, P:].abs().max() * 40 + 40
    torch.testing.assert_close(found, wanted, atol=0.02 * float(size), rtol=0.02)


def test_estimators_agree_with_closed_forms_under_condition_and_gaps():
    truth = ConditionalGaussian()
    shift, widen = 0.3, 1.4
    model = truth.model(shift, widen)
    x, y, rows = rows_of(truth, SOME, 4)
    expected, kl = truth.log_prob(x, y), kl_of(truth, rows, shift, widen)
    generator = torch.Generator().manual_seed(0)

    found = importance_sampling(model, rows, 20_000, generator)
    assert ((found["elbo"] - (expected - kl)).abs() < 5 * found["elbo_error"] + 1e-9).all()
    assert ((found["iw_bound"] - expected).abs() < 5 * found["iw_error"] + 1e-9).all()
    mixed = mixture_importance_sampling(model, rows, 20_000, generator)
    assert ((mixed["bound"] - expected).abs() < 5 * mixed["error"] + 1e-9).all()

    exact = quadrature(model, rows)
    torch.testing.assert_close(exact.log_prob, expected, atol=2e-3, rtol=0)
    assert exact.kl is not None
    torch.testing.assert_close(exact.kl, kl, atol=4e-3, rtol=0)

    annealed = annealed_importance_sampling(
        model, rows, chains=64, temperatures=200, generator=generator
    )
    assert ((annealed.log_prob - expected).abs() < 6 * annealed.standard_error + 1e-9).all()
    sandwich = bdmc(model, 20, like=rows, chains=16, temperatures=200)
    assert -0.1 < sandwich.gap.mean < 0.2

    refined = model.refine(rows)
    z, log_q = refined.rsample_and_log_prob((2000,), generator)
    torch.testing.assert_close((model.log_joint(rows, z) - log_q).mean(0), expected)


def test_gaps_are_the_kl_under_condition_and_mask():
    truth = ConditionalGaussian()
    model = truth.model(0.3, 1.0)
    x, y, rows = rows_of(truth, SOME, 4)
    known = truth.log_prob(x, y)
    gaps = inference_gaps(model, rows, log_prob=known, samples=4000, steps=1)
    torch.testing.assert_close(known - gaps["elbo"], kl_of(truth, rows, 0.3, 1.0), atol=0.1, rtol=0)


def test_information_is_against_the_prior_under_the_condition():
    truth = ConditionalGaussian()
    model = truth.model()
    _, _, rows = rows_of(truth, None, 60)
    found = mutual_information(model, rows, samples=50, generator=torch.Generator().manual_seed(0))
    # E KL(q ‖ p(z|y)) of exact posteriors is the mutual information of x and z given y.
    precision = torch.eye(2, dtype=torch.float64) + truth.W.T @ truth.W / truth.sigma**2
    average = 0.5 * torch.logdet(precision).item()
    assert found.kl.mean == pytest.approx(average, abs=0.5)
    count, variance = active_units(model, rows)
    assert count == 2
    assert (variance > 0.1).all()


def test_draws_of_a_conditional_model_have_the_moments_of_p_of_x_given_y():
    truth = ConditionalGaussian()
    model = truth.model()
    y = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    z, condition = model.draw_prior(50_000, generator, y)
    x = model.draw(z, generator, condition)
    p = truth.marginal(y)
    torch.testing.assert_close(x.mean(0), p.loc[0], atol=0.08, rtol=0)
    torch.testing.assert_close(x.T.cov(), p.covariance_matrix[0], atol=0.25, rtol=0.05)


def test_pairs_are_the_joint_of_every_datum_under_its_own_condition():
    truth = ConditionalGaussian()
    model = truth.model()
    _, _, rows = rows_of(truth, SOME, 4)
    rows = torch.cat([rows, rows[:1]])  # a condition that comes twice
    z = torch.randn(6, 2, dtype=torch.float64)
    expected = torch.stack([model.log_joint(rows, each.expand(5, 2)) for each in z], 1)
    torch.testing.assert_close(model.log_joint_pairs(rows, z), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.elbo(x), "x: expected a condition beside it, or rows"),
        (lambda m, x: m.elbo(x, condition=torch.zeros(3, 2)), "expected 3 numbers for each datum"),
        (lambda m, x: m.sample(2), "condition: expected y_1, y_2, y_3, got none"),
        (lambda m, x: m.sample(2, condition=1), "a value for each of y_1, y_2, y_3"),
        (lambda m, x: m.sample(2, condition={"y_1": 0, "y_9": 1}), "got 'y_9'"),
        (lambda m, x: m.decode(x[:, :2]), "condition: expected y_1, y_2, y_3, got none"),
        (lambda m, x: m.elbo(x[:, :3], condition=torch.zeros(3, 3)), r"x: expected \(\.\.\., 5\)"),
    ],
)
def test_a_condition_that_is_not_there_or_wrong_is_named(call, message):
    model = ConditionalGaussian().model()
    with pytest.raises(ValueError, match=message):
        call(model, torch.zeros(3, 5, dtype=torch.float64))

"""Bernoulli and continuous Bernoulli."""

from __future__ import annotations

import pytest

mpmath = pytest.importorskip("mpmath")

import itertools

import torch

import flowvae
from flowvae.data import Dataset
from flowvae.likelihoods import Bernoulli
from tests.helpers.likelihoods import GREY, likelihood


def test_continuous_bernoulli_near_one_half():
    """In float64 against 50 digits; torch's own takes a Taylor polynomial within 0.499 … 0.501."""
    made, _ = likelihood("continuous_bernoulli")
    mpmath.mp.dps = 50
    for exponent in range(-14, 3):
        for sign, x in itertools.product((-1, 1), (0.0, 0.3, 1.0)):
            logit = sign * 2.7 * 10.0**exponent
            length = mpmath.mpf(logit)
            expected = x * length - mpmath.log((mpmath.exp(length) - 1) / length)
            mean = 1 / (1 - mpmath.exp(-length)) - 1 / length
            p = made(torch.tensor([logit], dtype=torch.float64))
            got = p.log_prob(torch.tensor([x], dtype=torch.float64)).item()
            assert got == pytest.approx(float(expected), rel=1e-12, abs=1e-12)
            assert p.mean.item() == pytest.approx(float(mean), rel=1e-12)


def test_a_pseudo_likelihood_is_the_bernoullis_alone(tmp_path):
    data = Dataset.from_arrays(GREY[:8], GREY[8:])
    for name, pseudo in (("bernoulli", True), ("continuous_bernoulli", False)):
        run = flowvae.train(
            likelihood=name, dataset=data, out=tmp_path / name, epochs=1, hidden_dims=(4,),
            evaluation_samples=2, progress=False,
        )  # fmt: skip
        assert run.evaluation is not None
        assert run.evaluation.pseudo_likelihood is pseudo


def test_bernoulli_is_finite_at_every_logit():
    logits = torch.tensor([-1e30, -200.0, 0.0, 200.0, 1e30]).requires_grad_()
    for x in (0.0, 0.3, 1.0):
        log_p = Bernoulli()(logits).log_prob(torch.full((5,), x))
        assert log_p.isfinite()
    (grad,) = torch.autograd.grad(log_p, logits)
    assert grad.isfinite().all()

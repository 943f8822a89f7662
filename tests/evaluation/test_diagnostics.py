"""Mutual information and active units."""

from __future__ import annotations

import math

import pytest
import torch

from flowvae.evaluation import (
    active_units,
    mutual_information,
)
from tests.helpers.linear_gaussian import LinearGaussian
from tests.helpers.making import seeded


def test_information_splits_the_divergence():
    truth = LinearGaussian(D=2, P=4, sigma=0.5)
    model, x = truth.model(), truth.data(400)
    found = mutual_information(model, x, samples=4, generator=seeded())
    whole = found.mutual_information.mean + found.marginal_kl.mean
    assert whole == pytest.approx(found.kl.mean, abs=1e-10)
    loc, variance = (x - truth.c) @ truth.gain.T, truth.covariance.diagonal()
    kl = 0.5 * (loc.square() + variance - 1 - variance.log()).sum(-1).mean().item()
    assert abs(found.kl.mean - kl) < 4.5 * (found.kl.standard_error or math.inf)
    # q(z) is close to p(z): information is close to that of the channel, ½ log |I + WᵀW/σ²|.
    channel = -0.5 * truth.covariance.logdet().item()
    assert found.mutual_information.mean == pytest.approx(channel, abs=0.15)
    assert found.mutual_information.mean < found.largest
    assert abs(found.marginal_kl.mean) < 0.1


def test_information_is_bounded_by_the_number_of_data():
    truth = LinearGaussian(D=2, P=4, sigma=0.001)
    found = mutual_information(truth.model(), truth.data(10), generator=seeded())
    assert found.mutual_information.mean == pytest.approx(math.log(10), abs=1e-6)


def test_active_units_are_counted_without_the_draws_own_noise():
    truth = LinearGaussian(D=3, P=5, sigma=0.7)
    model = truth.model()
    with torch.no_grad():  # the last unit no longer sees x
        model.get_parameter("posterior_head.heads.weight")[2] = 0
    count, variance = active_units(model, truth.data(4000), samples=4, generator=seeded())
    assert count == 2
    expected = 1 - truth.covariance.diagonal()  # Var E[z|x] = 1 - Var[z|x]
    torch.testing.assert_close(variance[:2], expected[:2], atol=0.05, rtol=0)
    assert abs(variance[2].item()) < 0.01

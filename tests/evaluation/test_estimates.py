"""The ELBO and its bound on a run: standard errors, agreement with the model."""

from __future__ import annotations

import math

import pytest
import torch

import flowvae
from flowvae.config import resolve_config
from flowvae.evaluation import Estimate, evaluate_model, per_datum
from tests.helpers.making import seeded


def test_standard_errors_cover_the_truth():
    """Over 2,000 simulated data sets the mean lies within 1.96 errors about 95% of the time."""
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(2000):
        found = Estimate.of(3 + 2 * torch.randn(100, generator=generator))
        hits += abs(found.mean - 3) < 1.96 * (found.standard_error or math.inf)
    assert 0.93 < hits / 2000 < 0.965
    assert Estimate.of(torch.ones(1)).standard_error is None


def test_evaluation_agrees_with_the_model(run):
    """Batches, chunks and float64 sums do not change what is estimated."""
    split = run.dataset.test
    values = per_datum(run.model, split, 50, seeded(), batch_size=7)
    with torch.no_grad():
        elbo = run.model.elbo(split.values(), 4000, seeded()).double()
        bound = run.model.iw_bound(split.values(), 4000, seeded()).double()
    assert (values["elbo"] - elbo).mean().abs() < 0.05
    assert values["iw_bound"].mean() == pytest.approx(bound.mean().item(), abs=0.05)
    assert (values["iw_bound"] >= values["elbo"] - 1e-5).all()
    once = evaluate_model(run.model, split, 5, seed=1)
    assert once == evaluate_model(run.model, split, 5, seed=1)
    assert once != evaluate_model(run.model, split, 5, seed=2)


def test_test_metrics_use_sampled_z(small_data):
    """With z = μ the terms would not depend on the seed, and would be no bound."""
    model = flowvae.build_vae(resolve_config(hidden_dims=(8,)), (6, 5))
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    values = [per_datum(model, small_data.test, 1, generator) for generator in generators]
    assert (values[0]["log_prior"] != values[1]["log_prior"]).all()

"""Means over an epoch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowvae.config import resolve_config
from flowvae.terms import ElboTerms
from flowvae.training import RunningMeans
from tests.helpers.making import trainer_of


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=120),
    samples=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_means_are_those_over_all_data(sizes, samples, seed):
    """Whatever the sizes of batches, kept back or counted in at once."""
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(4, samples, n, generator=generator) for n in sizes]
    plain, guarded = RunningMeans(), RunningMeans()
    for batch in batches:
        plain.add(ElboTerms(*batch))
        guarded.add(ElboTerms(*batch), torch.tensor(True))
        guarded.add(ElboTerms(*(batch * math.nan)), torch.tensor(False))
    fit, prior, base, ladj = torch.cat(batches, 2).double().mean((1, 2)).tolist()
    expected = {
        "elbo": fit + prior - base + ladj,
        "log_likelihood": fit,
        "kl": base - ladj - prior,
        "log_prior": prior,
        "log_base": base,
        "ladj": ladj,
    }
    for means in (plain, guarded):
        assert means.read() == pytest.approx(expected, abs=1e-5)


def test_running_means_weigh_every_datum_alike(small_data):
    config = resolve_config(hidden_dims=(8,), batch_size=64)  # the last batch has 8 of 200
    trainer = trainer_of(config, small_data)
    means, values = RunningMeans(), []
    for terms in trainer.steps():
        means.add(terms)
        values.append(terms.log_weight[0])
    assert means.read()["elbo"] == pytest.approx(torch.cat(values).mean().item(), rel=1e-5)

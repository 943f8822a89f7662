"""Splines are an optional extra."""

from __future__ import annotations

import pytest

import flowvae
from flowvae.registry import LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS
from tests.helpers.families import posterior

# Every name at least once, and every pair of a posterior with a prior.
PAIRS = [{"posterior": q, "prior": p} for q in POSTERIORS for p in PRIORS]


PAIRS += [{"likelihood": name} for name in LIKELIHOODS]


PAIRS += [{"likelihood": "gaussian", "sigma": "per_pixel"}, {"gated": True}]


PAIRS += [{"network": n, "likelihood": "logistic_mixture"} for n in NETWORKS]


PAIRS += [{"posterior": q, "amortized": False} for q in POSTERIORS]


def test_spline_without_zuko_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko.flows", None)
    with pytest.raises(flowvae.UserError, match=r"spline needs zuko.*flowvae\[spline\]"):
        posterior("spline")

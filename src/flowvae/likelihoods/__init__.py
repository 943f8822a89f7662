"""Likelihoods: decoder output -> p(x|z). Each is a module that returns a distribution over x."""

from flowvae.likelihoods.base import (
    CATEGORIES,
    COLUMNS,
    COUNTS,
    EIGHT_BIT,
    REAL,
    UNIT_INTERVAL,
    Likelihood,
    Measure,
    Support,
    ValueDistribution,
    measure_of,
    observed_log_prob,
)
from flowvae.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from flowvae.likelihoods.columns import MixedColumns
from flowvae.likelihoods.counts import Categorical, NegativeBinomial, Poisson
from flowvae.likelihoods.logistic import DiscretizedLogistic, DiscretizedLogisticMixture
from flowvae.likelihoods.real import Gaussian

__all__ = [
    "CATEGORIES",
    "COLUMNS",
    "COUNTS",
    "EIGHT_BIT",
    "REAL",
    "UNIT_INTERVAL",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "Likelihood",
    "Measure",
    "MixedColumns",
    "NegativeBinomial",
    "Poisson",
    "Support",
    "ValueDistribution",
    "measure_of",
    "observed_log_prob",
]

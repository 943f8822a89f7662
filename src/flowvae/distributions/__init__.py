"""Distributions over z that can draw a sample and its log-density in one pass."""

from flowvae.distributions.base import FlowSample, LatentDistribution
from flowvae.distributions.flow import FlowDistribution
from flowvae.distributions.gaussian import DiagonalGaussian, FullGaussian, StandardGaussian
from flowvae.distributions.mixture import MixtureDistribution
from flowvae.distributions.selected import SelectedDistribution

__all__ = [
    "DiagonalGaussian",
    "FlowDistribution",
    "FlowSample",
    "FullGaussian",
    "LatentDistribution",
    "MixtureDistribution",
    "SelectedDistribution",
    "StandardGaussian",
]

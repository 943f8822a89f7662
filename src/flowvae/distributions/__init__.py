"""Distributions over z that can draw a sample and its log-density in one pass."""

from flowvae.distributions.base import FlowSample, LatentDistribution
from flowvae.distributions.flow import (
    FlowDistribution,
    NeuralFlowDistribution,
    ParametricFlowDistribution,
    PlanarFlowDistribution,
)
from flowvae.distributions.gaussian import DiagonalGaussian, FullGaussian
from flowvae.distributions.mixture import MixtureDistribution

__all__ = [
    "DiagonalGaussian",
    "FlowDistribution",
    "FlowSample",
    "FullGaussian",
    "LatentDistribution",
    "MixtureDistribution",
    "NeuralFlowDistribution",
    "ParametricFlowDistribution",
    "PlanarFlowDistribution",
]

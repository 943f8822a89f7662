"""Amortizing heads: features -> q(z|x). Each is a module that returns a distribution."""

from flowvae.posteriors.base import FlowPosterior
from flowvae.posteriors.gaussian import FullGaussianPosterior, GaussianPosterior
from flowvae.posteriors.householder import HouseholderPosterior
from flowvae.posteriors.neural import CouplingPosterior, IAFPosterior, SplinePosterior
from flowvae.posteriors.planar import PlanarPosterior
from flowvae.posteriors.radial import RadialPosterior
from flowvae.posteriors.sylvester import (
    HouseholderSylvesterPosterior,
    OrthogonalSylvesterPosterior,
    TriangularSylvesterPosterior,
)

__all__ = [
    "CouplingPosterior",
    "FlowPosterior",
    "FullGaussianPosterior",
    "GaussianPosterior",
    "HouseholderPosterior",
    "HouseholderSylvesterPosterior",
    "IAFPosterior",
    "OrthogonalSylvesterPosterior",
    "PlanarPosterior",
    "RadialPosterior",
    "SplinePosterior",
    "TriangularSylvesterPosterior",
]

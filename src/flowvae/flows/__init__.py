"""Invertible maps on R^D with their log-determinants; no encoders, no data."""

from flowvae.flows.autoregressive import InverseAutoregressiveFlow
from flowvae.flows.bijection import Bijection
from flowvae.flows.coupling import CouplingFlow
from flowvae.flows.householder import HouseholderTransform
from flowvae.flows.planar import (
    CONSTRAINTS,
    PlanarFlow,
    PlanarTransform,
    planar_flow,
    planar_flow_inverse,
)
from flowvae.flows.radial import RadialTransform
from flowvae.flows.spline import SplineFlow
from flowvae.flows.sylvester import SylvesterTransform

__all__ = [
    "CONSTRAINTS",
    "Bijection",
    "CouplingFlow",
    "HouseholderTransform",
    "InverseAutoregressiveFlow",
    "PlanarFlow",
    "PlanarTransform",
    "RadialTransform",
    "SplineFlow",
    "SylvesterTransform",
    "planar_flow",
    "planar_flow_inverse",
]

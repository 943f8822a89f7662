"""Invertible maps on R^D with their log-determinants; no encoders, no data."""

from flowvae.flows.autoregressive import InverseAutoregressiveFlow
from flowvae.flows.coupling import CouplingFlow
from flowvae.flows.householder import householder_flow, householder_flow_inverse
from flowvae.flows.planar import CONSTRAINTS, planar_flow, planar_flow_inverse
from flowvae.flows.radial import radial_flow, radial_flow_inverse
from flowvae.flows.sylvester import sylvester_flow, sylvester_flow_inverse
from flowvae.flows.transform import PlanarFlow, PlanarTransform

__all__ = [
    "CONSTRAINTS",
    "CouplingFlow",
    "InverseAutoregressiveFlow",
    "PlanarFlow",
    "PlanarTransform",
    "householder_flow",
    "householder_flow_inverse",
    "planar_flow",
    "planar_flow_inverse",
    "radial_flow",
    "radial_flow_inverse",
    "sylvester_flow",
    "sylvester_flow_inverse",
]

"""Invertible maps on R^D with their log-determinants; no networks, no data."""

from flowvae.flows.planar import CONSTRAINTS, planar_flow, planar_flow_inverse
from flowvae.flows.transform import PlanarFlow, PlanarTransform

__all__ = ["CONSTRAINTS", "PlanarFlow", "PlanarTransform", "planar_flow", "planar_flow_inverse"]

"""Invertible maps on R^D with their log-determinants; no networks, no data."""

from flowvae.flows.planar import CONSTRAINTS, planar_flow

__all__ = ["CONSTRAINTS", "planar_flow"]

"""The loop, and what it reports."""

from flowvae.training.trainer import RunningMeans, Trainer

__all__ = ["RunningMeans", "Trainer"]

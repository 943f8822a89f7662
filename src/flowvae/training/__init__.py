"""The loop, and what it reports."""

from flowvae.training.means import RunningMeans
from flowvae.training.trainer import Trainer

__all__ = ["RunningMeans", "Trainer"]

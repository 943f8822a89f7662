"""What tests make from a configuration."""

from __future__ import annotations

import flowvae
from flowvae.data import Dataset
from flowvae.training import Trainer


def trainer_of(config: flowvae.Config, data: Dataset, model: flowvae.VAE | None = None) -> Trainer:
    """The trainer that ``flowvae.train`` would make, of a fresh model."""
    model = model or flowvae.build_vae(config, data.data_shape)
    return Trainer(model, data, config.training, config.objective, config.seed)

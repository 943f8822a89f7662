"""What tests make from a configuration."""

from __future__ import annotations

import struct

import numpy as np
import torch

import flowvae
from flowvae.cli import main
from flowvae.data import Dataset
from flowvae.training import Trainer


def trainer_of(config: flowvae.Config, data: Dataset, model: flowvae.VAE | None = None) -> Trainer:
    """The trainer that ``flowvae.train`` would make, of a fresh model."""
    model = model or flowvae.build_vae(config, data.data_shape)
    return Trainer(model, data, config.training, config.objective, config.seed)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def call(*arguments: object) -> int:
    """Run a command in this process; its exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


TINY = {"memory_budget": 1e-7}  # about 100 bytes: everything stays in its file


def idx_bytes(array: np.ndarray) -> bytes:
    kind = {"|u1": 8, ">i4": 0x0C, ">f4": 0x0D}[array.dtype.newbyteorder(">").str]
    header = struct.pack(f">BBBB{array.ndim}i", 0, 0, kind, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()

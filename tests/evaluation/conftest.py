"""Runs that the tests of evaluations share."""

from __future__ import annotations

import pytest

import flowvae
from flowvae.runs import Run


@pytest.fixture(scope="module")
def binary_runs(data_file, tmp_path_factory) -> list[Run]:
    """Two short runs on the same binary data, and one of D = 3."""
    folder = tmp_path_factory.mktemp("binary")
    options = {"data": str(data_file), "binarization": "static", "hidden_dims": (16,)}
    options |= {"epochs": 2, "batch_size": 32, "evaluation_samples": 30, "progress": False}
    return [
        flowvae.train("original", out=folder / "flows", **options),
        flowvae.train("gaussian", out=folder / "gaussian", seed=1, **options),
        flowvae.train("original", out=folder / "three", latent_dim=3, **options),
    ]

"""Shapes in signatures are checked while the tests run; one small trained run serves many tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jaxtyping

# Before anything of flowvae is imported: the modules that handle tensors.
_CHECKED = (
    *("flows.planar", "flows.reference", "flows.radial", "flows.householder", "flows.sylvester"),
    *(
        "flows.layered",
        "flows.conditioner",
        "flows.autoregressive",
        "flows.coupling",
        "flows.spline",
    ),
    *("distributions", "posteriors", "priors"),
    *("likelihoods", "networks", "vae", "evaluation"),
)
jaxtyping.install_import_hook([f"flowvae.{module}" for module in _CHECKED], "beartype.beartype")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

import flowvae
from flowvae.data import Dataset

settings.register_profile(
    "flowvae",
    deadline=None,
    max_examples=50,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("flowvae")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="no CUDA GPU"))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shape checks off: the function's own errors are what is tested."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def blobs(count: int, shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two kinds of soft images, and which kind each is."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, count)
    ramp = np.linspace(0, 1, int(np.prod(shape)))
    images = np.where(kinds[:, None] == 0, ramp, 1 - ramp) * rng.uniform(0.6, 1.0, (count, 1))
    return images.reshape(count, *shape).astype(np.float32), kinds


@pytest.fixture(scope="session")
def small_data() -> Dataset:
    """200 + 60 images of 6 x 5 pixels in two classes."""
    images, kinds = blobs(260, (6, 5))
    return Dataset.from_arrays(images[:200], images[200:], kinds[:200], kinds[200:])


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same kind of images as a file for ``--data``."""
    images, kinds = blobs(260, (6, 5))
    file = tmp_path_factory.mktemp("data") / "blobs.npz"
    arrays = {"x_train": images[:200], "x_test": images[200:]}
    np.savez(file, y_train=kinds[:200], y_test=kinds[200:], **arrays)
    return file


@pytest.fixture(scope="session")
def run(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> flowvae.Run:
    """A small finished run, D = 2, K = 3, for reading only."""
    return flowvae.train(
        "original",
        data=str(data_file),
        out=tmp_path_factory.mktemp("runs") / "small",
        hidden_dims=(16,),
        epochs=3,
        batch_size=32,
        evaluation_samples=8,
        progress=False,
    )

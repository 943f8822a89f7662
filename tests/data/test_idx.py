"""MNIST and IDX files."""

from __future__ import annotations

import gzip
from importlib import resources

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from flowvae import UserError
from flowvae.data import load_dataset
from flowvae.data.idx import bundled_mnist, read_idx
from tests.helpers.making import idx_bytes


def test_bundled_mnist(mnist):
    assert mnist.train.data.shape == (60_000, 784)
    assert mnist.test.data.shape == (10_000, 784)
    assert mnist.data_shape == (28, 28)
    assert mnist.train.data.dtype == torch.uint8
    # Published facts of the data set.
    assert mnist.train.values().double().mean().item() == pytest.approx(0.1307, abs=1e-4)
    assert mnist.train.labels is not None
    assert mnist.train.labels.bincount().tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]
    assert mnist.pseudo_likelihood


def test_a_corrupt_bundle_is_noticed(tmp_path):
    packed = resources.files("flowvae.data") / "mnist" / "train-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress(packed.read_bytes()))
    content[-1] ^= 1
    (tmp_path / packed.name).write_bytes(gzip.compress(bytes(content), 1))
    with pytest.raises(UserError, match=r"bundled MNIST.*expected SHA-256 ba89"):
        bundled_mnist(tmp_path)


@given(
    array=st_numpy.arrays(
        st.sampled_from([np.uint8, np.dtype(">i4")]),
        st_numpy.array_shapes(max_dims=4, max_side=5),
    )
)
def test_idx_round_trip(array, tmp_path):
    plain, packed = tmp_path / "plain", tmp_path / "packed.gz"
    plain.write_bytes(idx_bytes(array))
    packed.write_bytes(gzip.compress(idx_bytes(array)))
    for file in (plain, packed):
        assert np.array_equal(read_idx(file), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an IDX file"),
        (b"\x89PNG....", "expected an IDX file"),
        (b"\0\0\x08\x03\0\0", "header cut short"),
        (idx_bytes(np.zeros((3, 4), np.uint8))[:-1], r"24 bytes for shape \(3, 4\), got 23"),
        (gzip.compress(idx_bytes(np.zeros((3, 4), np.uint8)), mtime=0)[:-9], "corrupt gzip"),
    ],
)  # fmt: skip
def test_corrupt_idx(content, message, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_idx(tmp_path / "file")


def test_idx_folder(tmp_path):
    images = np.arange(7 * 4 * 3, dtype=np.uint8).reshape(7, 4, 3)
    labels = np.arange(7, dtype=np.uint8)
    for split in ("train", "t10k"):
        (tmp_path / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    found = load_dataset(str(tmp_path))
    assert found.data_shape == (4, 3)
    assert torch.equal(found.train.data, torch.from_numpy(images.reshape(7, 12)))
    assert found.test.labels is not None
    assert found.test.labels.tolist() == list(range(7))
    assert found.name == str(tmp_path.resolve())
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UserError, match="expected IDX files"):
        load_dataset(str(tmp_path))

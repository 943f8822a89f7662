"""Arrays and archives of NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flowvae import UserError
from flowvae.data import load_dataset


def test_numpy_files(tmp_path):
    x = np.random.default_rng(0).random((50, 3, 4))
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(50))
    alone = load_dataset(str(tmp_path / "x.npy"), test_fraction=0.2, seed=3)
    assert len(alone.train) == 40
    assert len(alone.test) == 10
    labelled = load_dataset(str(tmp_path / "x.npz"), test_fraction=0.2, seed=3)
    assert torch.equal(labelled.test.data, alone.test.data)
    assert labelled.test.labels is not None
    expected = torch.from_numpy(x.reshape(50, 12).astype(np.float32))[labelled.test.labels]
    assert torch.equal(labelled.test.data, expected)
    other = load_dataset(str(tmp_path / "x.npy"), test_fraction=0.2, seed=4)
    assert not torch.equal(other.test.data, alone.test.data)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((9, 4), np.nan), "finite numbers, got NaN"),
        (np.full((9, 4), "a"), "expected numbers, got dtype <U1"),
        (np.zeros(9), r"expected an array \(N, \.\.\.\)"),
        (np.zeros((0, 4)), r"N at least 2, got \(0, 4\)"),
        (np.zeros((9, 0)), "not empty"),
    ],
)
def test_bad_arrays(array, message, tmp_path):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UserError, match=message):
        load_dataset(str(tmp_path / "x.npy"))


def test_bad_files(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"nothing")
    np.savez(tmp_path / "b.npz", z=np.zeros((3, 2)))
    (tmp_path / "c.txt").write_text("1,2")
    np.savez(tmp_path / "d.npz", x=np.zeros((5, 2)), y=np.zeros(4, int))
    for name, message in [
        ("a.npy", "no readable NumPy file"),
        ("b.npz", "expected arrays x_train and x_test, or x, in .*got z"),
        ("c.txt", "expected 'mnist', .*table, got .*c.txt"),
        ("d.npz", r"d.npz: expected 5 labels, .*\(4,\)"),
        ("absent.npy", "no such file or folder: .*absent.npy"),
    ]:
        with pytest.raises(UserError, match=message):
            load_dataset(str(tmp_path / name))


def test_an_npy_of_objects_runs_no_code(tmp_path):
    np.save(tmp_path / "x.npy", np.array([Path("a")], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="no readable NumPy file"):
        load_dataset(str(tmp_path / "x.npy"))


def test_labels_of_plain_arrays(tmp_path):
    x = np.column_stack([np.random.default_rng(0).random((20, 3)), np.arange(20) % 4])
    np.save(tmp_path / "x.npy", x)
    found = load_dataset(str(tmp_path / "x.npy"), label_column="-1")
    assert found.data_shape == (3,)
    assert found.test.labels is not None
    assert found.test.labels.dtype == torch.int64
    with pytest.raises(UserError, match="label_column: expected the number of a column .*'kind'"):
        load_dataset(str(tmp_path / "x.npy"), label_column="kind")
    np.savez(tmp_path / "x.npz", x=x[:, :3], digit=np.arange(20))
    named = load_dataset(str(tmp_path / "x.npz"), label_column="digit")
    assert named.test.labels is not None
    with pytest.raises(UserError, match="label_column: no array 'kind' in .*, got x, digit"):
        load_dataset(str(tmp_path / "x.npz"), label_column="kind")

"""Data: the bundled MNIST, files good and bad, binarization, batches."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from flowvae import UserError
from flowvae.data import Batches, Dataset, FileRows, Split, binarize, load_dataset
from flowvae.data import idx as idx_module
from flowvae.data.idx import read_idx


def idx_bytes(array: np.ndarray) -> bytes:
    kind = {"|u1": 8, ">i4": 0x0C, ">f4": 0x0D}[array.dtype.newbyteorder(">").str]
    header = struct.pack(f">BBBB{array.ndim}i", 0, 0, kind, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load_dataset("mnist")


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


def test_a_corrupt_bundle_is_noticed(monkeypatch):
    wrong = dict.fromkeys(idx_module._MNIST, "0" * 64)
    monkeypatch.setattr(idx_module, "_MNIST", wrong)
    with pytest.raises(UserError, match=r"bundled MNIST.*expected SHA-256 0000.*got ba89"):
        load_dataset("mnist")


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


@pytest.mark.parametrize("policy", ["static", "threshold"])
def test_fixed_binarization(mnist, policy):
    small = Dataset("part", Split(mnist.train.data[:2000]), Split(mnist.test.data), (28, 28))
    once, again = binarize(small, policy), binarize(small, policy)
    assert torch.equal(once.train.data, again.train.data)
    assert not once.pseudo_likelihood
    assert set(once.train.values().unique().tolist()) == {0.0, 1.0}
    grey = small.train.values()
    if policy == "threshold":
        assert torch.equal(once.train.values(), (grey >= 0.5).float())
    else:
        # A Bernoulli(x) draw: right on average, certain where x is 0 or 1.
        z = (once.train.values() - grey).sum() / (grey * (1 - grey)).sum().sqrt()
        assert abs(z) < 5
        assert (once.train.values() == grey)[(grey == 0) | (grey == 1)].all()


def by_datum(found: Dataset) -> dict[int, tuple[int, ...]]:
    """Number of a datum, its label -> its binary pixels, over all splits but a grey one."""
    return {
        int(label): tuple(image.tolist())
        for split in found.splits.values()
        if split.is_binary()
        for label, image in zip(split.labels, split.data[:], strict=True)
    }


@pytest.mark.parametrize("policy", ["static", "dynamic"])
@pytest.mark.parametrize("form", ["one array", "train and test", "in its file"])
def test_a_fixed_draw_belongs_to_the_datum(form, policy, tmp_path):
    """Not to the seed, nor to the split that it falls into, nor to where it is kept."""
    x = np.random.default_rng(0).integers(1, 255, (2300, 9), dtype=np.uint8)
    number = np.arange(2300)
    given = {"x_train": x[:1500], "x_test": x[1500:]}
    given |= {"y_train": number[:1500], "y_test": number[1500:]}
    arrays = given if form == "train and test" else {"x": x, "y": number}
    np.savez(tmp_path / "x.npz", **arrays)
    budget = 19e3 / 2**30 if form == "in its file" else 1.0  # the labels fit
    expected = by_datum(load_dataset(str(tmp_path / "x.npz"), "static"))
    assert len(expected) == 2300
    for seed in (0, 1):
        found = load_dataset(
            str(tmp_path / "x.npz"), policy, seed=seed, validation_fraction=0.3,
            memory_budget=budget, test_fraction=0.2,
        )  # fmt: skip
        assert isinstance(found.test.data, FileRows) == (form == "in its file")
        drawn = by_datum(found)
        assert len(drawn) >= 2300 if policy == "static" else len(drawn) > 500
        assert all(expected[number] == image for number, image in drawn.items())


def test_the_draw_of_data_with_a_test_set_stays_what_it_was():
    """One stream of uniform numbers, the test images first: runs of before can be compared."""
    x = np.random.default_rng(0).integers(0, 256, (1000, 7), dtype=np.uint8)
    found = binarize(Dataset.from_arrays(x[:700], x[700:]), "static")
    generator = torch.Generator().manual_seed(0)
    for split, grey in ((found.test, x[700:]), (found.train, x[:700])):
        drawn = torch.bernoulli(torch.from_numpy(grey).float() / 255, generator=generator)
        assert torch.equal(split.values(), drawn)


def test_dynamic_binarization(mnist):
    small = Dataset("part", Split(mnist.train.data[:300]), Split(mnist.test.data[:300]), (28, 28))
    dynamic = binarize(small, "dynamic")
    assert torch.equal(dynamic.train.data, small.train.data)
    assert dynamic.test.is_binary()
    assert not dynamic.pseudo_likelihood
    assert torch.equal(dynamic.test.data, binarize(small, "static").test.data)
    generator = torch.Generator().manual_seed(0)
    batches = Batches(dynamic.train, 300, generator, dynamic=True)
    (first,), (second,) = list(batches), list(batches)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first.sum(0), second.sum(0))


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 99))
def test_an_epoch_is_every_image_once(count, batch_size, seed):
    split = Split(torch.arange(count, dtype=torch.float32)[:, None] / 100)
    batches = Batches(split, batch_size, torch.Generator().manual_seed(seed))
    seen = list(batches)
    assert len(seen) == len(batches)
    assert all(len(x) == batch_size for x in seen[:-1])
    assert torch.cat(seen).sort(0).values.equal(split.data)
    again = list(Batches(split, batch_size, torch.Generator().manual_seed(seed)))
    assert torch.equal(torch.cat(again), torch.cat(seen))


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    together=st.integers(1, 60),
    skipped=st.integers(0, 12),
)
def test_batches_are_the_same_however_many_are_fetched_together(
    count, batch_size, together, skipped
):
    split = Split(torch.arange(count, dtype=torch.float32)[:, None] / 100)

    def fetched(values: int, skipped: int) -> list[torch.Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flowvae.data.batches._VALUES_AT_ONCE", values)
            batches = Batches(split, batch_size, torch.Generator().manual_seed(0))
            return list(batches.skipping(skipped))

    expected = fetched(1, 0)[skipped:]
    found = fetched(together, skipped)
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


def test_binary_data_is_no_pseudo_likelihood():
    binary = np.random.default_rng(0).integers(0, 2, (20, 5))
    assert not Dataset.from_arrays(binary, binary).pseudo_likelihood
    assert not Dataset.from_arrays(binary.astype(np.uint8) * 255, binary).pseudo_likelihood
    assert Dataset.from_arrays(binary * 0.5, binary).pseudo_likelihood


def test_splits_must_fit_together():
    with pytest.raises(UserError, match="one shape"):
        Dataset.from_arrays(np.zeros((5, 3)), np.zeros((5, 4)))
    with pytest.raises(UserError, match="train labels: expected 5 integers"):
        Dataset.from_arrays(np.zeros((5, 3)), np.zeros((5, 3)), np.zeros(4, int))

"""Files larger than memory: rows that are read as needed are the rows of the array."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvae import UserError
from flowvae.data import Batches, Column, Dataset, FileRows, load_dataset
from flowvae.data import rows as rows_module
from tests.helpers.making import TINY, idx_bytes, pixels


@given(
    count=st.integers(1, 60),
    width=st.integers(1, 9),
    dtype=st.sampled_from(["u1", "<f4", ">f8", "<i2"]),
    data=st.data(),
)
def test_rows_in_a_file_are_the_array(small_blocks, tmp_path, count, width, dtype, data):
    array = pixels(count, width).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    with (tmp_path / "x.npy").open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        source = rows_module.ArrayFile(tmp_path / "x.npy", file.tell(), array.shape, array.dtype)
    blocks = data.draw(st.sets(st.integers(0, source.num_blocks - 1), min_size=1))
    rows = FileRows(source, np.array(sorted(blocks)))
    expected = torch.from_numpy(array.astype("u1" if dtype == "u1" else "f4"))[rows.rows()]
    assert rows.shape == expected.shape
    assert rows.dtype == expected.dtype
    start, stop, step = (data.draw(st.integers(low, count)) for low in (0, 0, 1))
    assert torch.equal(rows[start:stop:step], expected[start:stop:step])
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(rows) - 1))), dtype=torch.int64)
    assert torch.equal(rows[index], expected[index])


@given(count=st.integers(2, 200), batch_size=st.integers(1, 70), seed=st.integers(0, 99))
def test_an_epoch_from_a_file_is_every_row_once(small_blocks, tmp_path, count, batch_size, seed):
    array = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    np.save(tmp_path / "x.npy", array)
    found = load_dataset(str(tmp_path / "x.npy"), **TINY)
    assert isinstance(found.train.data, FileRows)
    batches = Batches(found.train, batch_size, torch.Generator().manual_seed(seed))
    seen = list(batches)
    assert len(seen) == len(batches)
    assert all(len(x) == batch_size for x in seen[:-1])
    together = torch.cat([*seen, found.test.values()])
    assert np.array_equal(together[together[:, 0].argsort()], array)
    again = list(Batches(found.train, batch_size, torch.Generator().manual_seed(seed)))
    assert torch.equal(torch.cat(again), torch.cat(seen))


def test_rows_of_distant_blocks_are_mixed(small_blocks, tmp_path):
    """In each batch of a sorted file there is something from all over it."""
    np.save(tmp_path / "x.npy", np.repeat(np.arange(2000.0, dtype=np.float32)[:, None], 2, 1))
    found = load_dataset(str(tmp_path / "x.npy"), **TINY)
    batches = list(Batches(found.train, 40, torch.Generator().manual_seed(0)))
    spread = torch.stack([x[:, 0].std() for x in batches[:-1]])
    assert spread.min() > 250  # 577 if they were drawn one by one


def binary(folder: Path, policy: str, *names: str) -> tuple[Dataset, list[tuple[Tensor, Tensor]]]:
    """Grey rows in a file under a policy; of some splits what is binary, and what was grey."""
    np.save(folder / "x.npy", pixels(500, 40))
    grey = load_dataset(str(folder / "x.npy"), **TINY)
    found = load_dataset(str(folder / "x.npy"), policy, **TINY)
    assert found.statistics.binary
    assert not found.pseudo_likelihood
    pairs = []
    for name in names:
        split = found.splits[name]
        assert split.is_binary()
        x = split.values()
        assert torch.equal(x, torch.cat([split.values(torch.tensor([k])) for k in range(len(x))]))
        pairs.append((x, grey.splits[name].values()))
    return found, pairs


def test_rows_in_a_file_above_a_threshold(small_blocks, tmp_path):
    for x, grey in binary(tmp_path, "threshold", "train", "test")[1]:
        assert torch.equal(x, (grey >= 0.5).float())


@pytest.mark.parametrize(("policy", "names"), [("static", "train test"), ("dynamic", "test")])
def test_fixed_draws_of_rows_in_a_file(small_blocks, tmp_path, policy, names):
    for x, p in binary(tmp_path, policy, *names.split())[1]:
        assert abs((x - p).sum() / (p * (1 - p)).sum().sqrt()) < 5


def test_fresh_draws_of_rows_in_a_file(small_blocks, tmp_path):
    found, _ = binary(tmp_path, "dynamic")
    first, second = (
        torch.cat(list(Batches(found.train, 100, torch.Generator().manual_seed(k), dynamic=True)))
        for k in (0, 1)
    )
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first.sort(0).values, second.sort(0).values)


def test_standardised_rows(small_blocks, tmp_path):
    x = np.random.default_rng(0).normal([3, -100, 1e4], [2, 0.1, 300], (400, 3))
    np.save(tmp_path / "x.npy", x)
    for budget in ({}, TINY):
        found = load_dataset(str(tmp_path / "x.npy"), scaling="standard", **budget)
        train = found.train.values().double()
        assert isinstance(found.train.data, FileRows) == bool(budget)
        assert train.mean(0).abs().max() < 1e-3
        assert (train.std(0, correction=0) - 1).abs().max() < 1e-3
        again = load_dataset(str(tmp_path / "x.npy"), columns=found.columns, **budget)
        assert torch.equal(again.test.values(), found.test.values())
    x[:, 1] = 7
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UserError, match=r"scaling: 1 of 3 values are constant .*\(number 1\)"):
        load_dataset(str(tmp_path / "x.npy"), scaling="standard")
    np.save(tmp_path / "x.npy", pixels(9, 3, 4))
    with pytest.raises(UserError, match=r"scaling: expected data of shape \(N, P\) .*\(3, 4\)"):
        load_dataset(str(tmp_path / "x.npy"), scaling="standard")


def test_archives_and_idx_files_are_streamed_too(small_blocks, tmp_path):
    x, y = pixels(50, 3, 4), np.arange(50)
    np.savez(tmp_path / "x.npz", x=x, y=y)
    expected = x.reshape(50, 12)
    found = load_dataset(str(tmp_path / "x.npz"), memory_budget=5.5e-7)  # the labels fit
    for split in found.splits.values():
        assert isinstance(split.data, FileRows)
        assert split.labels is not None
        assert np.array_equal(split.data[:], expected[split.labels])
    np.savez_compressed(tmp_path / "z.npz", x=x)
    with pytest.raises(UserError, match="more than memory_budget, and is compressed"):
        load_dataset(str(tmp_path / "z.npz"), **TINY)
    (tmp_path / "pictures-idx3-ubyte").write_bytes(idx_bytes(x))
    idx = load_dataset(str(tmp_path / "pictures-idx3-ubyte"), **TINY)
    assert isinstance(idx.train.data, FileRows)
    both = np.concatenate([idx.train.data[:], idx.test.data[:]])
    assert np.array_equal(both[np.lexsort(both.T)], expected[np.lexsort(expected.T)])


def test_bad_files_larger_than_memory(small_blocks, tmp_path):
    file = tmp_path / "x.npy"
    x = np.random.default_rng(0).random((40, 8))
    np.save(file, np.asfortranarray(x))
    with pytest.raises(UserError, match="stored column by column"):
        load_dataset(str(file), **TINY)
    np.save(file, x)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"is cut short: expected 2560 bytes .*, got 2551"):
        load_dataset(str(file), **TINY)
    x[17, 3] = np.nan
    np.save(file, x)
    with pytest.raises(UserError, match="expected finite numbers, got NaN"):
        load_dataset(str(file), **TINY)
    np.save(file, np.full((40, 8), "a"))
    with pytest.raises(UserError, match="expected numbers, got dtype <U1"):
        load_dataset(str(file), **TINY)


_STREAM = """
import re, sys, torch, flowvae
from itertools import islice
from flowvae.data import load_dataset
from flowvae.evaluation import evaluate_model
from flowvae.training import Trainer
from flowvae.data import Split
from dataclasses import replace
data = load_dataset(sys.argv[1])
config = flowvae.preset("original").replace(hidden_dims=(16,), device="cpu")
model = flowvae.build_vae(config, data.data_shape)
for terms in islice(Trainer(model, data, config.training).steps(), 100):
    assert terms.log_weight.isfinite().all()
few = replace(data.test.data, blocks=data.test.data.blocks[:100])
assert evaluate_model(model, Split(few), 1).count > 30_000
# Of this program alone: ru_maxrss begins where the process that started it stood.
status = open("/proc/self/status").read()
print(len(data.train) + len(data.test), re.search(r"VmHWM:\\s+(\\d+)", status)[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in KiB as Linux does")
def test_ten_gigabytes_in_less_than_two(tmp_path):
    count = 10 * 10**9 // 784 + 1
    file = tmp_path / "x.npy"
    with file.open("wb") as out:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, 28, 28)}
        np.lib.format.write_array_header_1_0(out, header)
        out.truncate(out.tell() + count * 784)
    if file.stat().st_blocks * 512 > 10**6:
        pytest.skip("this file system stores holes")
    assert file.stat().st_size > 10**10
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _STREAM, str(file)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows, kibibytes = map(int, done.stdout.split())
    assert rows == count
    assert kibibytes * 1024 < 2e9


@given(
    count=st.integers(8, 120),
    batch_size=st.integers(1, 50),
    beside=st.integers(0, 5),
    skipped=st.integers(0, 3),
)
def test_rows_in_a_file_keep_their_conditions(
    small_blocks, tmp_path, count, batch_size, beside, skipped
):
    """Row k is k, of class k mod 3, beside the number 2k: in every split, order and batch."""
    x = np.repeat(np.arange(count, dtype=np.float32)[:, None], 8, 1)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(count) % 3, twice=2.0 * x[:, 0])
    budget = {"memory_budget": (x.nbytes + 1) / 2**30}  # x stays in its file, the others fit
    for condition in ("labels", "twice"):
        data = load_dataset(str(tmp_path / "x.npz"), condition=(condition,), **budget)
        columns = data.condition
        assert columns is not None
        for split in data.splits.values():
            assert isinstance(split.data, FileRows)
            check_condition(split.rows(), columns)
            check_condition(split.rows(torch.arange(len(split)).flip(0)[::2]), columns)
            check_condition(split.at_most(3).rows(), columns)
        generator = torch.Generator().manual_seed(count)
        batches = Batches(data.train, batch_size, generator, labelled=beside)
        seen = list(batches.skipping(skipped))
        assert len(seen) == max(0, len(batches) - skipped)
        for batch in seen:
            check_condition(batch, columns)
        own = [batch[: len(batch) - beside, 0] for batch in seen]
        if not skipped:
            numbers = torch.cat(own).sort().values
            assert torch.equal(numbers, data.train.values()[:, 0].sort().values)


def check_condition(rows: Tensor, columns: tuple[Column, ...]) -> None:
    number = rows[:, 0]
    if columns[0].kind == "numeric":
        expected = (2 * number - columns[0].mean) / columns[0].scale
        assert torch.allclose(rows[:, 8], expected, atol=1e-5)
    else:
        assert rows.shape[1] == 8 + len(columns[0].categories)
        names = [columns[0].categories[k] for k in rows[:, 8:].argmax(1).tolist()]
        assert names == [str(int(k) % 3) for k in number]


def test_what_is_missing_in_a_file_is_seen_though_it_is_standardised(small_blocks, tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3))
    x[7, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    for budget in ({}, TINY):
        with pytest.raises(UserError, match=r"expected finite numbers, got NaN.*missing=model"):
            load_dataset(str(tmp_path / "x.npy"), scaling="standard", **budget)
        found = load_dataset(str(tmp_path / "x.npy"), scaling="standard", missing="model", **budget)
        assert any(split.has_missing for split in found.splits.values())

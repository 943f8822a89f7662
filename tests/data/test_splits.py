"""How data is cut into splits by seed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowvae
from flowvae import UserError
from flowvae.data import binarize, load_dataset
from flowvae.data.splits import cut
from tests.helpers.making import pixels


@given(
    count=st.integers(3, 400),
    test=st.floats(0.01, 0.99),
    validation=st.one_of(st.just(0.0), st.floats(0.01, 0.99)),
    seed=st.integers(0, 2**32),
)
def test_splits_are_a_partition_by_seed(count, test, validation, seed):
    chosen, record = cut({"all": count}, test, validation, seed)
    parts = {name: numbers for name, (_, numbers) in chosen.items()}
    assert set(parts) == {"train", "test"} | ({"validation"} if validation else set())
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(count))
    assert all(len(part) >= 1 for part in parts.values())
    assert {name: record[name]["count"] for name in parts} == {k: len(v) for k, v in parts.items()}
    again, same = cut({"all": count}, test, validation, seed)
    assert same == record
    assert all(np.array_equal(again[name][1], parts[name]) for name in parts)


def test_the_test_split_does_not_depend_on_validation():
    """So that figures of runs with and without early stopping can be compared."""
    with_, without = (cut({"all": 100}, 0.2, fraction, 5)[0] for fraction in (0.3, 0.0))
    assert np.array_equal(with_["test"][1], without["test"][1])


def test_validation_of_data_that_names_its_test_set():
    found = load_dataset("mnist", validation_fraction=0.05)
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 57_000,
        "validation": 3_000,
        "test": 10_000,
    }
    whole = load_dataset("mnist")
    assert whole.validation is None
    assert torch.equal(found.test.data, whole.test.data)
    both = torch.cat([found.train.data, found.validation.data])  # pyright: ignore
    assert torch.equal(both.long().sum(0), whole.train.data[:].long().sum(0))
    dynamic = binarize(found, "dynamic")
    assert dynamic.validation is not None
    assert dynamic.validation.is_binary()


def test_how_the_splits_were_made_is_recorded(tmp_path):
    np.save(tmp_path / "x.npy", pixels(40, 3, 4))
    run = flowvae.train(
        "original", data=str(tmp_path / "x.npy"), out=tmp_path / "run", validation_fraction=0.2,
        hidden_dims=(8,), epochs=1, finish=False, progress=False, seed=4,
    )  # fmt: skip
    about = json.loads((run.path / "environment.json").read_text())["data"]
    assert (about["train"], about["validation"], about["test"]) == (29, 7, 4)
    assert about["splits"] == dict(cut({"all": 40}, 0.1, 0.2, 4)[1])
    assert len(about["splits"]["train"]["rows_sha256"]) == 64


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_data_to_split(count):
    with pytest.raises(UserError, match=f"expected at least 3 data to split .*, got {count}"):
        cut({"all": count}, 0.5, 0.5, 0)

"""Conditions and missing values on their way from files and arrays to rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowvae.data import Batches, Column, Dataset, Split, binarize, load_dataset
from flowvae.data.conditions import (
    class_numbers,
    class_rows,
    classes_of,
    conditioned,
    encode_condition,
)
from flowvae.data.scaling import moments
from flowvae.errors import UserError

PETS = [Column("pet", "categorical", ("cat", "dog", "fish"))]
PEOPLE = [
    Column("age", "numeric", mean=40.0, scale=10.0),
    Column("sex", "binary", ("f", "m")),
    *PETS,
]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_classes_go_to_numbers_and_back(codes):
    given_ = [PETS[0].categories[code] for code in codes]
    encoded = encode_condition(PETS, given_)
    assert class_numbers(PETS, encoded).tolist() == codes
    torch.testing.assert_close(encoded, class_rows(PETS)[codes])
    encoded[0] = math.nan
    assert class_numbers(PETS, encoded).tolist() == [-1, *codes[1:]]


def test_two_classes_may_be_one_number():
    column = [Column("sex", "binary", ("f", "m"))]
    torch.testing.assert_close(class_rows(column), torch.tensor([[0.0], [1.0]]))
    assert classes_of(column) == ("f", "m")
    assert class_numbers(column, torch.tensor([[1.0], [math.nan], [0.0]])).tolist() == [1, -1, 0]


def test_several_columns_are_given_by_name_one_value_or_one_each():
    found = encode_condition(PEOPLE, {"age": [30, 50], "sex": "m", "pet": ["dog", "cat"]})
    expected = torch.tensor([[-1.0, 1, 0, 1, 0], [1.0, 1, 1, 0, 0]])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(encode_condition(PEOPLE, expected, 2), expected)
    assert encode_condition(PEOPLE, expected[:1], 7).shape == (7, 5)
    assert classes_of(PEOPLE) is None


@pytest.mark.parametrize(
    ("columns", "value", "count", "message"),
    [
        (PETS, "horse", 2, "expected one of cat, dog, fish, got 'horse'"),
        (PETS, ["cat", "dog"], 3, "pet: expected 3 values, got 2"),
        (PETS, torch.zeros(2, 4), None, "expected 3 numbers for each datum, got 4"),
        (PETS, torch.zeros(2, 3), 5, "expected 5 rows, got 2"),
        (PETS, [], None, "expected one value a datum"),
        (PETS, None, 2, r"expected pet \(one of cat, dog, fish\), got none"),
        (PEOPLE, "cat", 1, "expected a value for each of age, sex"),
        (PEOPLE, {"age": 3}, 1, "got no 'sex'"),
        (PEOPLE, {"age": "old", "sex": "m", "pet": "cat"}, 1, "expected numbers, got 'old'"),
        (PEOPLE, {"age": math.nan, "sex": "m", "pet": "cat"}, 1, "expected a value in every row"),
        (None, "cat", 1, "the model is not conditional"),
    ],
)
def test_what_is_no_condition_is_named(columns, value, count, message):
    with pytest.raises(UserError, match=message):
        encode_condition(columns, value, count)


def arrays(labels: np.ndarray, *, missing: bool = False) -> Dataset:
    x = np.random.default_rng(0).random((len(labels), 4)).astype(np.float32)
    if missing:
        x[::3, 1] = np.nan
    half = len(labels) // 2
    return Dataset.from_arrays(x[:half], x[half:], labels[:half], labels[half:], missing=missing)


def test_labels_become_the_condition_and_quantities_are_standardised():
    data = conditioned(arrays(np.arange(12) % 3 + 4), ("labels",))
    assert data.condition == (Column("label", "categorical", ("4", "5", "6")),)
    assert data.train.rows().shape == (6, 7)
    assert class_numbers(data.condition, data.train.rows()[:, 4:]).tolist() == [0, 1, 2, 0, 1, 2]
    torch.testing.assert_close(data.train.rows()[:, :4], data.train.values())

    numbers = np.linspace(-3.0, 9.0, 12) + 0.1
    data = conditioned(arrays(numbers), ("labels",))
    assert data.train.condition is not None
    assert data.train.condition.mean().item() == pytest.approx(0, abs=1e-6)
    assert data.train.condition.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_a_class_that_training_has_not_seen_is_named():
    with pytest.raises(UserError, match="test labels: column 'label': expected one of 0, 1, got '"):
        conditioned(arrays(np.array([0, 1, 0, 1, 0, 7])), ("labels",))


def test_labels_that_are_not_there_or_all_alike_are_named():
    x = np.random.default_rng(0).random((4, 3))
    with pytest.raises(UserError, match="condition: expected labels in the train data"):
        conditioned(Dataset.from_arrays(x, x), ("labels",))
    with pytest.raises(UserError, match="at least two classes"):
        conditioned(arrays(np.zeros(6, int)), ("labels",))
    with pytest.raises(UserError, match="expected 'labels', columns of a table or arrays"):
        conditioned(arrays(np.arange(6)), ("weather",))


def test_columns_of_a_table_are_the_condition_and_no_features(tmp_path):
    file = tmp_path / "people.csv"
    lines = [f"{20 + k},{'mf'[k % 2]},{k * 1.5},{k % 7}" for k in range(40)]
    file.write_text("\n".join(["age,sex,income,score", *lines]) + "\n")
    data = load_dataset(str(file), condition=("age", "sex"))
    assert [c.name for c in data.columns or ()] == ["income", "score"]
    assert [c.name for c in data.condition or ()] == ["age", "sex"]
    assert data.train.rows().shape == (36, 4)
    # A trained model's columns serve for new data.
    again = load_dataset(
        str(file), condition=("age", "sex"), columns=data.columns, condition_columns=data.condition
    )
    torch.testing.assert_close(again.test.rows(), data.test.rows())
    with pytest.raises(UserError, match=r"condition: expected columns of .*, got 'height'"):
        load_dataset(str(file), condition=("height",))
    with pytest.raises(UserError, match="has no column left to learn from"):
        load_dataset(str(file), condition=("age", "sex", "income", "score"))


def test_a_label_column_with_gaps_is_a_label_that_is_not_known(tmp_path):
    file = tmp_path / "pets.csv"
    lines = [f"{k * 0.5},{['cat', 'dog', ''][k % 3]}" for k in range(60)]
    file.write_text("\n".join(["weight,pet", *lines]) + "\n")
    with pytest.raises(UserError, match="label_column: expected a label in every row"):
        load_dataset(str(file), label_column="pet")
    data = load_dataset(str(file), label_column="pet", condition=("labels",))
    assert data.condition == (Column("label", "categorical", ("cat", "dog")),)
    numbers = class_numbers(data.condition, data.train.rows()[:, 1:])
    assert set(numbers.tolist()) == {-1, 0, 1}


def test_arrays_of_an_archive_are_the_condition(tmp_path):
    file = tmp_path / "both.npz"
    generator = np.random.default_rng(0)
    c = generator.normal(3, 2, (50, 2))
    np.savez(file, x=generator.random((50, 4)), angle=c, size=c[:, 0])
    data = load_dataset(str(file), condition=("angle", "size"))
    assert [column.name for column in data.condition or ()] == [
        "angle_size_1", "angle_size_2", "angle_size_3",
    ]  # fmt: skip
    assert data.train.condition is not None
    torch.testing.assert_close(data.train.condition.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="condition: no array 'colour'"):
        load_dataset(str(file), condition=("colour",))
    np.savez(file, x=generator.random((50, 4)), angle=c[:7])
    with pytest.raises(UserError, match=r"angle: expected numbers of shape \(50,\)"):
        load_dataset(str(file), condition=("angle",))


def test_missing_values_are_refused_unless_they_are_modelled(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 3))
    x[4, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UserError, match="missing=model"):
        load_dataset(str(tmp_path / "x.npy"))
    data = load_dataset(str(tmp_path / "x.npy"), missing="model", scaling="standard")
    assert data.statistics.missing
    assert sum(int(split.values().isnan().sum()) for split in data.splits.values()) == 1
    x[5, 1] = np.inf
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UserError, match="expected finite numbers"):
        load_dataset(str(tmp_path / "x.npy"), missing="model")


def test_a_table_keeps_its_gaps_in_every_number_of_the_value(tmp_path):
    file = tmp_path / "gaps.csv"
    lines = [
        f"{k},{['red', 'green', 'blue', ''][k % 4]},{'' if k % 5 == 0 else k}" for k in range(40)
    ]
    file.write_text("\n".join(["a,colour,b", *lines]) + "\n")
    with pytest.raises(UserError, match="missing=model learns from what is there"):
        load_dataset(str(file))
    data = load_dataset(str(file), missing="model")
    rows = torch.cat([data.train.values(), data.test.values()])
    gone = rows[:, 1:4].isnan()
    assert (gone.all(1) == gone.any(1)).all()
    assert gone.any(1).sum() == 10
    assert rows[:, 4].isnan().sum() == 8
    assert data.columns is not None
    b = data.columns[2]
    there = data.train.values()[:, 4]
    assert there.nanmean().item() == pytest.approx(0, abs=1e-5)
    assert b.scale > 1


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=4, max_size=12))
@settings(max_examples=40, deadline=None)
def test_moments_and_statistics_are_of_what_is_there(mask):
    generator = torch.Generator().manual_seed(len(mask))
    x = torch.rand(len(mask), 3, generator=generator)
    gaps = torch.tensor(mask)
    gaps[0] = False
    split = Split(torch.where(gaps, math.nan, x))
    mean, deviation = moments(split)
    for k in range(3):
        there = x[:, k][~gaps[:, k]].double()
        assert mean[k] == pytest.approx(there.mean().item())
        assert deviation[k] == pytest.approx(there.std(correction=0).item(), abs=1e-12)
        assert split.mean()[k].item() == pytest.approx(there.mean().item(), rel=1e-5)
    found = split.statistics
    assert found.missing == bool(gaps.any())
    assert (found.low, found.high) == (x[~gaps].min().item(), x[~gaps].max().item())


def test_binarization_leaves_gaps_and_conditions_as_they_are():
    data = conditioned(arrays(np.arange(40) % 2, missing=True), ("labels",))
    dynamic = binarize(data, "dynamic")
    gaps = data.train.values().isnan()
    (x,) = Batches(dynamic.train, 40, torch.Generator().manual_seed(0), dynamic=True)
    assert x.shape == (20, 6)
    assert int(x[:, :4].isnan().sum()) == int(gaps.sum())
    there = x[:, :4][~x[:, :4].isnan()]
    assert ((there == 0) | (there == 1)).all()
    assert (x[:, 4:].sum(1) == 1).all()
    for policy in ("static", "threshold"):
        fixed = binarize(data, policy)
        for name, split in fixed.splits.items():
            values = split.values()
            assert torch.equal(values.isnan(), data.splits[name].values().isnan())
            there = values[~values.isnan()]
            assert ((there == 0) | (there == 1)).all()
            assert split.condition is not None


def test_conditions_keep_their_digits_until_they_are_standardised(tmp_path):
    t = 1.7e9 + np.arange(60.0)  # float32 tells no two of them apart
    np.savez(tmp_path / "t.npz", x=np.random.default_rng(0).random((60, 3)), t=t)
    data = load_dataset(str(tmp_path / "t.npz"), condition=("t",))
    assert data.train.condition is not None
    assert data.train.condition.dtype == torch.float32
    assert len(data.train.condition.unique()) == len(data.train)


def numbered(folder: Path) -> str:
    file = folder / "k.csv"
    lines = [f"{k * 0.5},{k % 4},{k % 3},{k % 2}" for k in range(60)]
    file.write_text("\n".join(["a,k,labels,flag", *lines]) + "\n")
    return str(file)


def test_a_class_that_is_a_number_may_be_the_condition(tmp_path):
    file = numbered(tmp_path)
    data = load_dataset(file, condition=("k",), categorical_columns=("k", "labels"))
    assert classes_of(data.condition) == ("0", "1", "2", "3")
    assert [column.kind for column in data.columns or ()] == ["numeric", "categorical", "binary"]
    data = load_dataset(file, condition=("flag",), categorical_columns=("k",))
    assert [c.kind for c in data.columns or ()] == ["numeric", "categorical", "numeric"]


def test_labels_are_those_of_the_label_column_even_beside_a_column_of_that_name(tmp_path):
    file = numbered(tmp_path)
    with pytest.raises(UserError, match="labelled: .*the column 'labels'; label_column=labels"):
        load_dataset(file, condition=("labels",), labelled=6)
    for name, count in (("k", 4), ("labels", 3)):
        data = load_dataset(file, condition=("labels",), label_column=name, labelled=2 * count)
        assert len(classes_of(data.condition) or ()) == count
        assert data.train.condition is not None
        assert int((~data.train.condition.isnan().any(1)).sum()) == 2 * count


@pytest.mark.parametrize("field", ["condition", "drop_columns", "categorical_columns"])
def test_a_name_that_is_given_twice_is_refused(field, tmp_path):
    with pytest.raises(UserError, match=f"{field}: .*expected each name once, got 'k' twice"):
        load_dataset(numbered(tmp_path), **{field: ("k", "k")})


def test_labels_may_be_large_numbers():
    """There are two classes; no room is taken for the numbers between them."""
    data = conditioned(arrays(np.array([0, 2**60] * 6)), ("labels",))
    assert classes_of(data.condition) == ("0", str(2**60))


def test_truth_values_are_given_as_such():
    column = [Column("member", "binary", ("false", "true"))]
    expected = torch.tensor([[1.0], [0.0]])
    for given_ in ([True, False], np.array([True, False]), torch.tensor([True, False])):
        torch.testing.assert_close(encode_condition(column, given_), expected)
    torch.testing.assert_close(encode_condition(column, True), expected[:1])
    coded = [Column("member", "binary", ("0", "1"))]
    torch.testing.assert_close(encode_condition(coded, [True, False]), expected)

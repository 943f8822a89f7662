"""Tables: what is found in a file, rows as numbers and back, and what is refused."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import call

import flowvae
from flowvae import UserError
from flowvae.data import Column, decode_table, load_dataset
from flowvae.data.columns import (
    columns_from_json,
    columns_to_json,
    encoded_slices,
    encoded_width,
)
from flowvae.data.tables import RawColumn, encode_table, fit_columns, infer_columns

CITIES = ("Bergen", "Oslo", "Tromsø")


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def people(count: int = 80, seed: int = 0) -> tuple[list[str], list[list[Any]]]:
    """Numbers, a yes-or-no, a category, a code, and a label."""
    rng = np.random.default_rng(seed)
    header = ["age", "smoker", "city", "ward", "sick"]
    rows: list[list[Any]] = [
        [
            round(float(rng.normal(40, 12)), 3),
            str(rng.choice(["no", "yes"])),
            str(rng.choice(CITIES)),
            int(rng.integers(0, 2)) if k > 1 else k,
            ["ill", "well"][int(rng.integers(0, 2))],
        ]
        for k in range(count)
    ]
    return header, rows


@st.composite
def tables(draw):
    """Columns of all kinds, each with at least two values, and rows of them."""
    count = draw(st.integers(2, 30))
    table = {}
    for number in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["numeric", "texts", "codes"]))
        numbers = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda v: round(v, 3))
        values = {
            "numeric": numbers,
            "texts": st.sampled_from(["a", "b", "Ä ö", "", "7"]),
            "codes": st.integers(0, 4).map(float),
        }[kind]
        column = draw(
            st.lists(values, min_size=count, max_size=count).filter(lambda v: np.ptp(v) > 0.01)
            if kind != "texts"
            else st.lists(values, min_size=count, max_size=count).filter(lambda v: len(set(v)) > 1)
        )
        array = np.array(column, object if kind == "texts" else np.float64)
        name = f"{kind}_{number}"
        table[name] = RawColumn(array, np.zeros(count, bool))
    return table


@given(table=tables())
def test_encoding_round_trip(table):
    coded = [name for name in table if name.startswith("codes")]
    columns = fit_columns(infer_columns(table, coded), table)
    rows = encode_table(columns, table)
    assert rows.shape == (len(next(iter(table.values()))), encoded_width(columns))
    for name, values in decode_table(columns, rows).items():
        given_ = table[name].values
        if name.startswith("codes"):
            assert values.astype(float).tolist() == given_.tolist()
        elif name.startswith("texts"):
            assert values.tolist() == given_.tolist()
        else:
            np.testing.assert_allclose(values.astype(float), given_, atol=1e-5 * abs(given_).max())
    for column, place in zip(columns, encoded_slices(columns), strict=True):
        part = rows[:, place]
        if column.kind == "numeric":
            assert abs(part.mean()) < 1e-2
            assert part.std() == pytest.approx(1, abs=1e-2)
        elif column.kind == "categorical":
            assert (part.sum(1) == 1).all()
        assert set(np.unique(part)) <= {0.0, 1.0} or column.kind == "numeric"
    assert columns_from_json(columns_to_json(columns)) == columns


def test_a_csv_file(tmp_path):
    file = write_csv(tmp_path / "people.csv", *people())
    found = load_dataset(str(file), label_column="sick", validation_fraction=0.25, seed=3)
    assert found.columns is not None
    kinds = {column.name: column.kind for column in found.columns}
    assert kinds == {"age": "numeric", "smoker": "binary", "city": "categorical", "ward": "binary"}
    assert found.columns[2].categories == CITIES
    assert found.data_shape == (6,)
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 54,
        "validation": 18,
        "test": 8,
    }
    assert found.label_names == ("ill", "well")
    # Every row of the file is in one split, with its own label.
    again = set()
    for split in found.splits.values():
        decoded = decode_table(found.columns, split.values().numpy())
        assert split.labels is not None
        assert found.label_names is not None
        labels = [found.label_names[int(k)] for k in split.labels]
        ages = np.round(decoded["age"].astype(float), 3)
        again |= set(zip(ages, decoded["city"], labels, strict=True))
    assert again == {(row[0], row[2], row[4]) for row in people()[1]}
    # Mean and scale are those of the training split, and of nothing else.
    train = decode_table(found.columns, found.train.values().numpy())["age"].astype(float)
    assert found.columns[0].mean == pytest.approx(train.mean(), abs=1e-4)
    assert found.columns[0].scale == pytest.approx(train.std(), abs=1e-4)
    assert not found.pseudo_likelihood
    assert not found.notes


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".parquet"])
def test_every_format_gives_the_same_table(suffix, tmp_path):
    import gzip

    header, rows = people()
    expected = load_dataset(str(write_csv(tmp_path / "a.csv", header, rows)))
    file = tmp_path / f"b{suffix}"
    if suffix == ".parquet":
        columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
        columns["city"] = pa.array(columns["city"]).dictionary_encode()
        columns["ward"] = [bool(value) for value in columns["ward"]]
        pq.write_table(pa.table(columns), file)
    else:
        text = (tmp_path / "a.csv").read_text(encoding="utf-8")
        text = text.replace(",", "\t") if "tsv" in suffix else text
        content = text.encode()
        file.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    found = load_dataset(str(file))
    assert np.array_equal(found.train.values(), expected.train.values())
    names = [column.name for column in expected.columns or ()]
    assert [column.name for column in found.columns or ()] == names


def test_options_of_columns(tmp_path):
    file = write_csv(tmp_path / "people.csv", *people())
    found = load_dataset(
        str(file), drop_columns=("age", "sick"), categorical_columns=("ward",), label_column="city"
    )
    assert [(c.name, c.categories) for c in found.columns or ()] == [
        ("smoker", ("no", "yes")),
        ("ward", ("0", "1")),
    ]
    assert found.label_names == CITIES


def test_a_first_line_of_numbers_is_a_row(tmp_path):
    (tmp_path / "x.csv").write_text("".join(f"{k},{k * k}\n" for k in range(12)))
    found = load_dataset(str(tmp_path / "x.csv"))
    assert [column.name for column in found.columns or ()] == ["column_1", "column_2"]
    assert len(found.train) + len(found.test) == 12


def test_missing_values_are_refused_or_imputed(tmp_path):
    header, rows = people()
    rows = [["" if k % 9 == 0 else row[0], *row[1:]] for k, row in enumerate(rows)]
    rows[5][2] = ""
    file = str(write_csv(tmp_path / "people.csv", header, rows))
    with pytest.raises(
        UserError, match="column 'age': expected a value in every row, got . missing"
    ):
        load_dataset(file)
    found = load_dataset(file, missing="impute")
    assert found.columns is not None
    age, _, city, *_ = found.columns
    assert age.fill == age.mean
    assert city.fill in CITIES
    # What stands in for a missing number is the mean, which is encoded as 0.
    assert sum(float((split.values()[:, 0] == 0).sum()) for split in found.splits.values()) == 9
    for split in found.splits.values():
        assert (split.values()[:, 2:5].sum(1) == 1).all()


def test_new_data_gets_the_transformation_of_the_model(tmp_path):
    """Also: columns in another order, columns more, labels missing."""
    header, rows = people()
    first = load_dataset(str(write_csv(tmp_path / "a.csv", header, rows)), label_column="sick")
    assert first.columns is not None
    moved = [[7, row[2], row[0] + 100, row[3], row[1]] for row in rows]
    file = write_csv(tmp_path / "b.csv", ["extra", "city", "age", "ward", "smoker"], moved)
    found = load_dataset(str(file), label_column="sick", columns=first.columns)
    assert found.columns == first.columns
    assert found.train.labels is None
    expected = first.train.values().clone()
    expected[:, 0] += 100 / first.columns[0].scale
    np.testing.assert_allclose(found.train.values(), expected, atol=1e-4)
    unknown = [[row[0], row[1], "Paris", row[3]] for row in rows]
    file = write_csv(tmp_path / "c.csv", ["age", "smoker", "city", "ward"], unknown)
    with pytest.raises(UserError, match=r"'city': expected one of Bergen, .*got 'Paris' in row 1"):
        load_dataset(str(file), columns=first.columns)
    file = write_csv(tmp_path / "d.csv", ["age", "smoker"], [[1, "no"], [2, "yes"], [3, "no"]])
    with pytest.raises(UserError, match="expected a column 'city', got age, smoker"):
        load_dataset(str(file), columns=first.columns)


HEAD = "age,city\n"
GOOD = "".join(f"{k},{CITIES[k % 3]}\n" for k in (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        (HEAD, {}, "expected at least 2 rows in .*, got 0"),
        (HEAD + GOOD + "7\n", {}, "no readable CSV file: .*Expected 2 columns, got 1"),
        (HEAD + GOOD + "1,Oslo,3\n", {}, "no readable CSV file: .*Expected 2 columns, got 3"),
        ("age,age\n1,2\n2,3\n", {}, "columns of different names .* two 'age'"),
        ("age,one\n1,5\n2,5\n3,5\n", {}, r"column 'one' is constant \(5\); .*drop_columns"),
        ("age,one\n1,\n2,\n3,\n", {}, "column 'one' has no value at all; .*drop_columns"),
        ("age,one\n1,inf\n2,3\n3,4\n", {}, "column 'one': expected finite numbers, got inf"),
        (HEAD + GOOD, {"label_column": "town"}, "label_column: .*age, city, got 'town'"),
        (HEAD + GOOD, {"drop_columns": ("town",)}, "drop_columns: .*age, city, got 'town'"),
        (HEAD + GOOD, {"categorical_columns": ("x",)}, "categorical_columns: .*got 'x'"),
        (HEAD + GOOD, {"drop_columns": ("age", "city")}, "no column left to learn from"),
        ("when,y\n2020-01-01,1\n2020-01-02,2\n", {}, "column 'when' .*got date32.*drop_columns"),
        (
            "age\n" + "".join(f"{k}\n" for k in range(30)) + "unknown\n",
            {},
            "column 'age': expected numbers, got 'unknown'; .*categorical_columns",
        ),
        (
            "name\n" + "".join(f"n{k}x\n" for k in range(30)),
            {},
            "column 'name' has 30 different texts in 30 rows, too many .*drop_columns",
        ),
    ],
)  # fmt: skip
def test_bad_tables_get_one_clear_line(text, options, message, tmp_path):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_dataset(str(tmp_path / "x.csv"), **options)
    assert "\n" not in str(error.value)


def test_bad_parquet_and_no_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="no readable Parquet file"):
        load_dataset(str(tmp_path / "x.parquet"))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=re.escape("pip install 'flowvae[tables]'")):
        load_dataset(str(tmp_path / "x.parquet"))


def test_what_looks_wrong_is_said(tmp_path):
    rows = [[k, value, k % 2] for k, value in enumerate(np.random.default_rng(0).random(20))]
    file = write_csv(tmp_path / "x.csv", ["id", "value", "label"], rows)
    found = load_dataset(str(file))
    assert "'label' looks like a label" in found.notes[1]
    assert "'id' counts the rows" in found.notes[0]
    assert not load_dataset(str(file), label_column="label", drop_columns=("id",)).notes


def test_column_checks_itself():
    with pytest.raises(ValueError, match="scale of column 'a': expected > 0, got 0"):
        Column("a", "numeric", scale=0.0)
    with pytest.raises(ValueError, match="two for binary, .* got 3"):
        Column("a", "binary", ("x", "y", "z"))
    with pytest.raises(ValueError, match="expected none for numeric"):
        replace(Column("a", "binary", ("x", "y")), kind="numeric")


def test_a_run_on_a_table_keeps_its_columns(tmp_path):
    """Train, load, evaluate on new data, and sample in the table's own values."""
    file = write_csv(tmp_path / "people.csv", *people(200))
    run = flowvae.train(
        "planar", data=str(file), out=tmp_path / "run", label_column="sick", likelihood="mixed",
        hidden_dims=(16,), latent_dim=3, epochs=2, evaluation_samples=4, progress=False,
    )  # fmt: skip
    opened = flowvae.open_run(run.path, "cpu", data=str(write_csv(tmp_path / "n.csv", *people(60))))
    assert opened.model.columns == run.dataset.columns
    assert opened.dataset.columns == run.dataset.columns
    assert np.isfinite(flowvae.evaluate(opened, 4, progress=False)["iw_bound"].mean)
    flowvae.sample(run, 5, out=tmp_path / "s.csv")
    with (tmp_path / "s.csv").open(encoding="utf-8") as lines:
        drawn = list(csv.DictReader(lines))
    assert list(drawn[0]) == ["array", "age", "smoker", "city", "ward"]
    assert {row["city"] for row in drawn} <= set(CITIES)
    assert all(-50 < float(row["age"]) < 130 for row in drawn)
    with pytest.raises(UserError, match=r"out: expected a file ending in .*, got .*x\.jpg"):
        flowvae.sample(run, 5, out=tmp_path / "x.jpg")


def test_tables_are_written_to_what_their_deviations_know(tmp_path):
    """A column near 1.6e9 with a deviation of 1e4 comes back as many numbers, not as a few."""
    rng = np.random.default_rng(0)
    rows = [[int(1.6e9 + 1e4 * rng.normal()), rng.normal()] for _ in range(60)]
    file = write_csv(tmp_path / "x.csv", ["seconds", "x"], rows)
    run = flowvae.train(
        "planar", data=str(file), out=tmp_path / "run", likelihood="gaussian", hidden_dims=(4,),
        epochs=1, finish=False, progress=False,
    )  # fmt: skip
    x, _ = flowvae.reconstruct(run, 6, out=tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(encoding="utf-8") as lines:
        found = [row for row in csv.DictReader(lines) if row["array"] == "x"]
    given = {row[0]: row[1] for row in rows}
    for row in found:
        assert round(float(row["seconds"])) in given
        assert float(row["x"]) == pytest.approx(given[round(float(row["seconds"]))], abs=1e-5)
    assert len({row["seconds"] for row in found}) == len(x)


def test_a_bad_table_on_the_command_line_writes_nothing(tmp_path, capsys):
    (tmp_path / "x.csv").write_text(HEAD + GOOD + "7\n")
    for command in (["train", "--out", str(tmp_path / "run"), "--data"], ["data"]):
        assert call(*command, tmp_path / "x.csv") == 2
        shown = capsys.readouterr().err
        assert shown.startswith("flowvae: data: ")
        assert shown.strip().count("\n") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]

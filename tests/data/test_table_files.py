"""CSV and Parquet files."""

from __future__ import annotations

import pytest

pyarrow = pytest.importorskip("pyarrow")

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flowvae import UserError
from flowvae.data import decode_table, load_dataset
from tests.helpers.making import call
from tests.helpers.tables import CITIES, people, write_csv


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


def test_a_row_is_told_by_its_number_in_the_file(tmp_path):
    header, rows = people()
    file = tmp_path / "people.csv"
    trained = load_dataset(str(write_csv(file, header, rows)))
    for seed in range(4):
        odd = [list(row) for row in rows]
        odd[7][0] = odd[20][0] = ""  # one of both is in the training split, or both are
        write_csv(file, header, odd)
        with pytest.raises(UserError, match=r"train: .* missing, the first in row (8|21);"):
            load_dataset(str(file), seed=seed)
        odd = [list(row) for row in rows]
        odd[7][2] = "Atlantis"
        write_csv(file, header, odd)
        with pytest.raises(UserError, match=r"(train|test): .*, got 'Atlantis' in row 8$"):
            load_dataset(str(file), seed=seed, columns=trained.columns)


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


def test_a_bad_table_on_the_command_line_writes_nothing(tmp_path, capsys):
    (tmp_path / "x.csv").write_text(HEAD + GOOD + "7\n")
    for command in (["train", "--out", str(tmp_path / "run"), "--data"], ["data"]):
        assert call(*command, tmp_path / "x.csv") == 2
        shown = capsys.readouterr().err
        assert shown.startswith("flowvae: data: ")
        assert shown.strip().count("\n") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]

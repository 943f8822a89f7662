"""Tables as vectors and back."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

import flowvae
from flowvae import UserError
from flowvae.data import Column, decode_table, load_dataset
from flowvae.data.columns import (
    columns_from_json,
    columns_to_json,
    encoded_slices,
    encoded_width,
)
from flowvae.data.tables import encode_table, fit_columns, infer_columns
from tests.helpers.tables import CITIES, people, tables, write_csv


@given(table=tables())
def test_encoding_round_trip(table):
    coded = [name for name in table if name.startswith("codes")]
    columns = fit_columns(infer_columns(table, coded), table)
    rows = encode_table(columns, table)
    assert rows.shape == (len(next(iter(table.values()))), encoded_width(columns))
    decoded = decode_table(columns, rows)
    texts = [name for name in table if name.startswith("texts")]
    for name in texts:
        assert decoded[name].tolist() == table[name].values.tolist()
    for name in coded:
        assert decoded[name].astype(float).tolist() == table[name].values.tolist()
    for name in table.keys() - {*texts, *coded}:
        values, given_ = decoded[name].astype(float), table[name].values
        np.testing.assert_allclose(values, given_, atol=1e-5 * abs(given_).max())
    parts: dict[str, list[np.ndarray]] = {"numeric": [], "categorical": [], "binary": []}
    for column, place in zip(columns, encoded_slices(columns), strict=True):
        parts[column.kind].append(rows[:, place])
    for part in parts["numeric"]:
        assert abs(part.mean()) < 1e-2
        assert part.std() == pytest.approx(1, abs=1e-2)
    for part in parts["categorical"]:
        assert (part.sum(1) == 1).all()
    for part in [*parts["categorical"], *parts["binary"]]:
        assert set(np.unique(part)) <= {0.0, 1.0}
    assert columns_from_json(columns_to_json(columns)) == columns


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
    with pytest.raises(
        UserError, match=r"'city': expected one of Bergen.* got 'Paris' in row \d+$"
    ):
        load_dataset(str(file), columns=first.columns)
    file = write_csv(tmp_path / "d.csv", ["age", "smoker"], [[1, "no"], [2, "yes"], [3, "no"]])
    with pytest.raises(UserError, match="expected a column 'city', got age, smoker"):
        load_dataset(str(file), columns=first.columns)


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

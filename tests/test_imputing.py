"""``flowvae impute``: files in, files out, nothing changed but the gaps."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowvae
from flowvae import UserError
from flowvae.data import Dataset
from flowvae.imputation import Imputation
from flowvae.imputing import TableImputation
from tests.helpers.making import call
from tests.helpers.tables import CITIES, people, write_csv

SMALL: Any = {"hidden_dims": (8,), "epochs": 2, "evaluation_samples": 2, "progress": False}


def table_with_gaps(count: int = 60) -> tuple[list[str], list[list[Any]]]:
    """People of whom something is not known, a truth value more, and a column of notes."""
    header, rows = people(count)
    random = np.random.default_rng(0)
    gone = random.random((count, 5)) < 0.2
    gone[:3] = False  # some of each kind are there
    rows = [
        [*row[:4], ["false", "true"][k % 2], row[4], f"note {k}" if k % 3 else ""]
        for k, row in enumerate(rows)
    ]
    found = [
        ["" if n < 5 and gone[k, n] else value for n, value in enumerate(row)]
        for k, row in enumerate(rows)
    ]
    return [*header[:4], "member", header[4], "note"], found


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> tuple[flowvae.Run, Path, list[list[Any]]]:
    folder = tmp_path_factory.mktemp("table")
    header, rows = table_with_gaps()
    file = write_csv(folder / "people.csv", header, rows)
    settings = {"drop_columns": ("note",), "label_column": "sick", "likelihood": "mixed"}
    run = flowvae.train(
        "planar", data=str(file), out=folder / "run", missing="model", **settings, **SMALL
    )
    return run, file, rows


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> flowvae.Run:
    x = np.random.default_rng(0).random((60, 6, 5))
    x[::3, :2] = np.nan
    folder = tmp_path_factory.mktemp("images")
    np.save(folder / "x.npy", x)
    file = str(folder / "x.npy")
    return flowvae.train("planar", data=file, out=folder / "run", missing="model", **SMALL)


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_table_keeps_what_is_there(table, tmp_path, capsys):
    run, file, rows = table
    out = tmp_path / "filled.csv"
    assert call("impute", run.path, "--data", file, "--out", out) == 0
    gaps = sum(value == "" for row in rows for value in row[:5])
    assert f"Wrote {out}: {gaps} values filled in, 60 rows" in capsys.readouterr().out
    found = read(out)
    assert len(found) == 60
    allowed = {"smoker": ("no", "yes"), "city": CITIES, "ward": "01", "member": ("false", "true")}
    for row, new in zip(rows, found, strict=True):
        for value, (name, filled) in zip(row, new.items(), strict=True):
            if value == "" and name == "age":
                assert 0 < float(filled) < 100
            elif value == "" and name != "note":
                assert filled in allowed[name]
            else:
                assert filled == str(value)


def test_draws_and_intervals_of_a_table(table, tmp_path):
    run, file, rows = table
    out = tmp_path / "draws.csv"
    found = flowvae.impute(run, file, out=out, draws=3, interval=0.8)
    assert isinstance(found, TableImputation)
    written = read(out)
    assert [row["draw"] for row in written] == ["1"] * 60 + ["2"] * 60 + ["3"] * 60
    assert [row["note"] for row in written] == [row[-1] for row in rows] * 3
    for number, row in enumerate(written):
        gap = found.missing["age"][number % 60]
        assert (row["age_low"] != "") == gap
        if gap:
            assert float(row["age_low"]) < float(row["age_high"])
        assert float(row["age"]) == pytest.approx(found.draws[number // 60]["age"][number % 60])
    for name, p in found.probabilities.items():
        np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
        assert (p[~found.missing[name]].max(1) == 1).all()
    city = found.probabilities["city"].argmax(1)
    assert found.filled["city"].tolist() == [CITIES[k] for k in city]
    assert found.effective_samples[found.missing["age"]].min() >= 1


def test_parquet_one_row_and_tables_in_memory(table, tmp_path):
    run, file, _ = table
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import csv as arrow_csv

    whole = arrow_csv.read_csv(file, convert_options=arrow_csv.ConvertOptions(
        strings_can_be_null=True
    ))  # fmt: skip
    found = flowvae.impute(run, whole)
    out = tmp_path / "filled.parquet"
    flowvae.impute(run, file, out=out)
    written = parquet.read_table(out)
    assert written.column_names == whole.column_names
    assert written.column("member").to_pylist() == found.filled["member"].tolist()
    assert {type(value) for value in found.filled["member"]} == {bool}
    assert {type(value) for value in written.column("ward").to_pylist()} == {int}
    np.testing.assert_array_equal(written.column("age").to_pylist(), found.filled["age"])
    # Nothing is known of one row but the ward: the answer of such a row among others.
    one = {name: [None] for name in ("age", "smoker", "city", "member")} | {"ward": [1]}
    alone = flowvae.impute(run, one)
    among = flowvae.impute(run, {name: value * 2 for name, value in one.items()})
    assert alone.filled["age"][0] == pytest.approx(among.filled["age"][1], rel=1e-5)


def test_arrays(images, tmp_path):
    x = np.random.default_rng(1).random((5, 6, 5))
    x[:4, 1:3] = np.nan
    np.save(tmp_path / "x.npy", x)
    data, gaps = tmp_path / "x.npy", np.isnan(x)
    arguments = ["impute", images.path, "--data", data, "--draws", 2, "--interval", 0.5]
    assert call(*arguments, "--out", tmp_path / "y.npz") == 0
    with np.load(tmp_path / "y.npz") as found:
        assert found["draws"].shape == (2, 5, 6, 5)
        assert np.array_equal(found["missing"], gaps)
        assert np.array_equal(found["x"][~gaps], x[~gaps])
        assert set(np.unique(found["draws"][:, gaps])) == {0.0, 1.0}
        assert (found["low"] <= found["high"]).all()
        assert np.isnan(found["effective_samples"]).tolist() == [False] * 4 + [True]
        filled = found["x"]
    assert call("impute", images.path, "--data", data, "--out", tmp_path / "y.npy") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), filled)
    assert call(*arguments[:-2], "--out", tmp_path / "y.png") == 0
    assert (tmp_path / "y.png").stat().st_size > 1000
    found = flowvae.impute(images, np.full((1, 6, 5), np.nan, np.float32))
    assert isinstance(found, Imputation)
    assert found.filled.dtype == np.float32
    assert np.isfinite(found.filled).all()


def test_standardised_arrays_come_back_in_their_units(tmp_path):
    x = np.random.default_rng(0).normal(1e6, 5, (80, 3))
    x[::4, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    settings = {"scaling": "standard", "likelihood": "gaussian", "missing": "model"}
    file = str(tmp_path / "x.npy")
    run = flowvae.train("planar", data=file, out=tmp_path / "run", **settings, **SMALL)
    found = flowvae.impute(run, file, draws=2)
    gaps = np.isnan(x)
    assert np.array_equal(found.filled[~gaps], x[~gaps])
    assert (abs(found.filled[gaps] - 1e6) < 50).all()


def test_a_conditional_run_imputes_under_labels(tmp_path):
    x = np.random.default_rng(0).random((60, 4))
    x[::3, 0] = np.nan
    y = np.arange(60) % 2
    np.savez(tmp_path / "x.npz", x=x, y=y)
    settings = {"condition": ("labels",), "missing": "model"}
    file = str(tmp_path / "x.npz")
    out = tmp_path / "run"
    run = flowvae.train("planar", data=file, out=out, finish=False, **settings, **SMALL)
    found = flowvae.impute(run, file)
    again = flowvae.impute(run, x, condition=[str(label) for label in y])
    np.testing.assert_allclose(found.filled, again.filled, rtol=1e-6)
    other = flowvae.impute(run, x, condition="1").filled
    same = np.isclose(other, found.filled).all(1)
    assert same[y == 1].all()
    assert not same[::3][y[::3] == 0].any()
    with pytest.raises(UserError, match="condition: expected labels"):
        flowvae.impute(run, x)


def refused(capsys, message: str, *arguments: Any) -> None:
    assert call("impute", *arguments) == 2
    shown = capsys.readouterr().err.strip()
    assert message in shown
    assert "\n" not in shown


def test_bad_input_is_one_line_and_leaves_nothing(table, images, run, tmp_path, capsys):
    made, file, rows = table
    out, npy = tmp_path / "out.csv", tmp_path / "out.npy"
    header = table_with_gaps()[0]
    odd = write_csv(tmp_path / "odd.csv", header, [["1", "no", "Atlantis", 0, "true", "ill", ""]])
    less = write_csv(tmp_path / "less.csv", header[1:], [row[1:] for row in rows])
    taken = write_csv(tmp_path / "taken.csv", [*header, "draw"], [[*row, 1] for row in rows])
    np.save(tmp_path / "wide.npy", np.zeros((3, 6, 6)))
    np.save(tmp_path / "x.npy", np.full((3, 6, 5), np.nan))
    np.save(tmp_path / "inf.npy", np.full((3, 6, 5), np.inf))
    np.savez(tmp_path / "parts.npz", x_train=np.zeros((3, 6, 5)), x_test=np.zeros((3, 6, 5)))
    for message, *arguments in (
        ("data: no such file: nosuch.csv", made.path, "--data", "nosuch.csv", "--out", out),
        ("expected a column 'age'", made.path, "--data", less, "--out", out),
        ("expected one of Bergen, Oslo", made.path, "--data", odd, "--out", out),
        ("ending in .csv or .parquet", made.path, "--data", file, "--out", npy),
        ("no column 'draw'", made.path, "--data", taken, "--out", out, "--draws", 2),
        (
            "expects a .csv or .parquet table",
            made.path,
            "--data",
            tmp_path / "wide.npy",
            "--out",
            npy,
        ),
        ("is a table", images.path, "--data", file, "--out", npy),
        ("(N, 6, 5)", images.path, "--data", tmp_path / "wide.npy", "--out", npy),
        ("a .npz for draws", images.path, "--data", tmp_path / "x.npy", "--out", npy, "--draws", 2),
        ("expected one array x", images.path, "--data", tmp_path / "parts.npz", "--out", npy),
        ("got infinity", images.path, "--data", tmp_path / "inf.npy", "--out", npy),
        ("missing=model", run.path, "--data", tmp_path / "x.npy", "--out", npy),
        ("--interval", images.path, "--data", npy, "--out", npy, "--interval", 1),
    ):
        refused(capsys, message, *arguments)
    assert not out.exists()
    assert not npy.exists()


def test_a_run_without_gaps_fills_nothing(run, small_data: Dataset):
    x = small_data.test.values().numpy().reshape(-1, *small_data.data_shape)
    assert np.array_equal(flowvae.impute(run, x).filled, x)
    assert json.loads((run.path / "environment.json").read_text())["status"] == "finished"


def test_every_row_is_filled_in_its_place_whatever_the_run_held_out(tmp_path):
    """Column b is 10 a, so that a row that is filled in another's place is seen."""
    a = np.random.default_rng(0).normal(size=80)
    rows = [[f"{v:.6f}", f"{10 * v:.6f}"] for v in a]
    for k in range(0, 80, 4):
        rows[k][1] = ""
    file = write_csv(tmp_path / "t.csv", ["a", "b"], rows)
    run = flowvae.train(
        "planar", data=str(file), out=tmp_path / "run", missing="model", validation_fraction=0.25,
        likelihood="gaussian", **SMALL,
    )  # fmt: skip
    found = flowvae.impute(run, file, draws=2, interval=0.5)
    assert isinstance(found, TableImputation)
    assert found.missing["b"].tolist() == [k % 4 == 0 for k in range(80)]
    there = ~found.missing["b"]
    np.testing.assert_allclose(found.filled["a"], a, atol=1e-6)
    np.testing.assert_allclose(found.filled["b"][there], 10 * a[there], atol=1e-5)
    one = flowvae.impute(run, {"a": [a[0]], "b": [None]})
    assert isinstance(one, TableImputation)
    assert one.filled["b"][0] == pytest.approx(found.filled["b"][0], abs=1e-4)


def test_a_row_beyond_all_that_was_seen_is_named(table, tmp_path, capsys):
    run, _, rows = table
    header = table_with_gaps()[0]
    bad = [*(list(row) for row in rows[:2]), ["-1e30", "", "", "", "", rows[0][5], ""]]
    file = write_csv(tmp_path / "far.csv", header, bad)
    assert call("impute", run.path, "--data", file, "--out", tmp_path / "out.csv") == 2
    assert "row 2, counted from 0: no z has a finite density" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()

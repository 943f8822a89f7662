"""The rows of metrics.csv: a list everywhere, a table in a notebook, a DataFrame on request."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

import flowvae
from flowvae.metrics import Metrics, read_metrics

ROWS = [{"epoch": float(k), "test_elbo": -10.0 + k} for k in range(1, 31)]


def test_they_are_a_list_of_rows(run):
    metrics = run.metrics
    assert isinstance(metrics, list)
    assert [row["epoch"] for row in metrics] == [1, 2, 3]
    assert metrics == list(metrics)
    assert isinstance(metrics[1:], Metrics)
    assert metrics.columns[0] == "epoch"
    assert not Metrics()


def test_a_column_by_its_name(run):
    assert run.metrics["test_elbo"].tolist() == [row["test_elbo"] for row in run.metrics]
    with pytest.raises(flowvae.UserError, match="a column of epoch, test_elbo; got 'nosuch'"):
        Metrics(ROWS)["nosuch"]
    with pytest.raises(flowvae.UserError, match="none: no epoch has ended; got 'epoch'"):
        Metrics()["epoch"]


def test_a_frame(run):
    pandas = pytest.importorskip("pandas")
    read = pandas.read_csv(run.path / "metrics.csv")
    pandas.testing.assert_frame_equal(run.metrics.to_frame(), read, check_dtype=False)
    assert Metrics().to_frame().empty


def test_without_pandas(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(flowvae.UserError, match=r"pip install 'flowvae\[notebook\]'"):
        run.metrics.to_frame()
    assert run.metrics[0]["epoch"] == 1
    assert "<table>" in run.metrics._repr_html_()


def test_pandas_is_not_imported_to_read_a_run(run):
    code = (
        "import sys, flowvae; run = flowvae.open_run(sys.argv[1], 'cpu'); run.metrics; "
        "run._repr_html_(); sys.exit('pandas' in sys.modules or 'IPython' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(run.path)], check=True)


def test_a_long_table_shows_its_ends():
    shown = Metrics(ROWS)._repr_html_()
    assert shown.count("<tr>") == 1 + 10 + 1 + 10
    epochs = [int(epoch) for epoch in re.findall(r"<tr><td>(\d+)</td>", shown)]
    assert epochs == [*range(1, 11), *range(21, 31)]
    assert Metrics()._repr_html_() == "<p>No epoch has ended.</p>"
    assert "&lt;b&gt;" in Metrics([{"<b>": 1.0}])._repr_html_()


def test_a_file_that_is_not_there_or_corrupt(tmp_path):
    assert read_metrics(tmp_path / "metrics.csv") == []
    for text in ("epoch\n1,2\n", "epoch\nx\n", ""):
        (tmp_path / "metrics.csv").write_text(text)
        with pytest.raises(flowvae.UserError, match=r"metrics\.csv is corrupt"):
            read_metrics(tmp_path / "metrics.csv")


def test_numbers_are_as_they_were_written(run):
    header, *rows = (run.path / "metrics.csv").read_text().splitlines()
    table = np.array([row.split(",") for row in rows], float)
    for name, column in zip(header.split(","), table.T, strict=True):
        assert run.metrics[name].tolist() == column.tolist()


def test_a_file_without_its_columns_is_corrupt(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,train_elbo\n1,2\n")
    with pytest.raises(flowvae.UserError, match="expected a column train_log_likelihood, got none"):
        read_metrics(tmp_path / "metrics.csv")

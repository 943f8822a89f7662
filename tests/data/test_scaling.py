"""Standardising in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowvae import UserError
from flowvae.data import load_dataset
from tests.helpers.making import TINY


@given(
    mean=st.floats(-1e12, 1e12),
    decimals=st.integers(-11, 9),
    dtype=st.sampled_from(["<f8", ">f8", "<i8"]),
    seed=st.integers(0, 99),
)
def test_numbers_are_standardised_in_float64(small_blocks, tmp_path, mean, decimals, dtype, seed):
    """Wherever they are kept: numbers far from zero with a small deviation stay apart."""
    scale = max(1.0, abs(mean)) * 10.0**decimals if dtype != "<i8" else 1e4
    x = np.random.default_rng(seed).normal(mean, scale, (200, 1)).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    rows = [f"{float(value)!r},{k % 2}\n" for k, value in enumerate(x[:, 0])]
    (tmp_path / "x.csv").write_text("x,bit\n" + "".join(rows))
    for file, options in (("x.npy", {}), ("x.npy", TINY), ("x.csv", {})):
        found = load_dataset(str(tmp_path / file), scaling="standard", **options)
        assert found.columns is not None
        column = found.columns[0]
        order = torch.cat([split.values()[:, :1] for split in found.splits.values()]).sort(0).values
        # Once more in extended precision.
        expected = (np.sort(x.astype(np.longdouble), 0) - column.mean) / column.scale
        assert np.abs(order.numpy() - expected).max() < 1e-6
        train = found.train.values()[:, 0].double()
        assert abs(train.mean()) < 1e-4
        assert abs(train.std(correction=0) - 1) < 1e-4


@pytest.mark.parametrize("budget", [{}, TINY])
def test_what_cannot_be_standardised(small_blocks, tmp_path, budget):
    x = np.random.default_rng(0).random((50, 2))
    for values, message in [
        (np.where(x > 0, 1e300, 0) * x, "finite variance"),
        (np.where(np.arange(50)[:, None] == 7, np.inf, x), "finite"),
        (x * [1, 0] + 0.1, r"1 of 2 values are constant .*\(number 1\)"),
    ]:
        np.save(tmp_path / "x.npy", values)
        with pytest.raises(UserError, match=message):
            load_dataset(str(tmp_path / "x.npy"), scaling="standard", **budget)
    np.save(tmp_path / "x.npy", x * 1e-15)  # small, but no constants
    load_dataset(str(tmp_path / "x.npy"), scaling="standard", **budget)
    np.save(tmp_path / "y.npy", x + 1e300)
    columns = load_dataset(str(tmp_path / "x.npy"), scaling="standard").columns
    with pytest.raises(UserError, match="expected finite numbers once standardised"):
        load_dataset(str(tmp_path / "y.npy"), columns=columns, **budget)

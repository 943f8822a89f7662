"""Tables, as rows and as files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from flowvae.data.tables import RawColumn

CITIES = ("Bergen", "Oslo", "Tromsø")


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    pytest.importorskip("pyarrow", reason="reads tables")
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

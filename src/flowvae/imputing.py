"""Filling in what is missing of a file by a run, as one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae.data import Column, Dataset, Split, decode_table
from flowvae.data.arrays import numpy_file
from flowvae.data.columns import encoded_slices
from flowvae.data.conditions import LABELS, conditioned
from flowvae.data.dataset import adopt
from flowvae.data.options import Options
from flowvae.data.rows import ArrayFile
from flowvae.data.scaling import ColumnScaler
from flowvae.data.splits import SourceArrays
from flowvae.data.table_files import arrow_dataset, arrow_module, is_table, read_table
from flowvae.errors import UserError
from flowvae.files import replacing, suffix_among, write_csv, write_npz
from flowvae.imputation import Imputation, Imputed
from flowvae.imputation import impute as impute_rows
from flowvae.likelihoods.support import check_support
from flowvae.outputs import cell
from flowvae.runs import Run, RunLike, opened

__all__ = ["TableImputation", "impute"]

_MOST_PICTURES, _MOST_DRAWS = 32, 4
Cells = list[Any]


@dataclass(frozen=True)
class TableImputation:
    """What was found for the N rows of a table, by column name, in the table's own values.

    Args:
        filled: (N,) values: what was there, means of numbers, the most probable categories.
        missing: which values were missing, (N,).
        probabilities: of columns of categories, (N, K), in the order of the model's
            ``Column.categories``; 1 for what was there.
        effective_samples: of each row, (N,), see :class:`flowvae.imputation.Imputed`.
        draws: of each of M imputations, values as in ``filled``; empty if none were asked for.
        low: of columns of numbers, lower ends of the intervals, (N,); empty if none were asked for.
        high: their upper ends.
        table: the Arrow table that the values come from.
    """

    filled: dict[str, np.ndarray]
    missing: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]
    effective_samples: np.ndarray
    draws: tuple[dict[str, np.ndarray], ...]
    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    table: Any


def impute(
    run: RunLike,
    data: Any,
    *,
    out: str | Path | None = None,
    samples: int = 500,
    draws: int = 0,
    interval: float | None = None,
    seed: int = 0,
    condition: Any = None,
    device: str = "auto",
) -> Imputation | TableImputation:
    """Fill in what is missing of all rows of a file, in their order.

    See :func:`flowvae.imputation.impute` for how, and for ``samples``, ``draws``, ``interval`` and
    ``seed``.

    Args:
        run: a run trained with ``missing=model``, or its folder.
        data: a ``.csv`` or ``.parquet`` table, a ``.npy``, a ``.npz`` with ``x``; or in memory an
            array (N, *data_shape) or whatever ``pyarrow.table`` takes, such as a ``DataFrame``.
        out: also write it. A ``.csv`` or ``.parquet`` has the table's own values and keeps its
            other columns; M draws are M times as many rows, told apart by a column ``draw``, and
            intervals are columns ``NAME_low`` and ``NAME_high``. A ``.npz`` has arrays x, missing,
            effective_samples, and draws (M, N, …), low and high. A ``.npy`` has x alone. A ``.png``
            shows images with their gaps, what fills them in and some draws.
        samples: S, draws of z per row.
        draws: M, how many imputations to draw.
        interval: share of the draws that lie in the intervals, such as 0.9.
        seed: of all noise.
        condition: of a conditional run, in place of what is in the data: see
            :meth:`flowvae.VAE.rows`.
        device: where to compute, for a run given by its folder.

    Raises:
        UserError: the data is not of the run's kind, see also :func:`flowvae.imputation.impute`.

    Examples:
        >>> import flowvae, numpy as np
        >>> from flowvae.data import Dataset
        >>> pixels = np.random.rand(200, 6, 5)
        >>> data = Dataset.from_arrays(pixels[:150], pixels[150:])
        >>> run = flowvae.train("planar", dataset=data, out=tmp_path / "run", epochs=1,
        ...                     evaluation_samples=4, missing="model", progress=False)
        >>> pixels[:, :3] = np.nan  # the upper half
        >>> found = flowvae.impute(run, pixels[:5], draws=2)
        >>> found.filled.shape, found.draws.shape
        ((5, 6, 5), (2, 5, 6, 5))
    """
    run = opened(run, device)
    options: Any = {"samples": samples, "draws": draws, "interval": interval, "seed": seed}
    source, table = _read(run, data, condition)
    several = draws > 0 or interval is not None
    suffix = "" if out is None else _suffix(out, run, table is not None, several)
    if table is None:
        x, dataset = _arrays(run, source, given=condition is not None)
    else:
        x, dataset = None, _table(run, table, given=condition is not None)
    check_support(run.config.model.likelihood, dataset)
    device_of = next(run.model.parameters()).device
    rows = dataset.train.rows().to(device_of)
    if condition is not None:
        rows = run.model.rows(rows, condition)
    found = impute_rows(run.model, rows, **options)
    if x is not None:
        result: Any = Imputation.of(found, x, ColumnScaler(run.model.columns).decode)
    else:
        result = _in_own_values(run.model.columns or (), table, found)
    if out is not None:
        _write(run, out, suffix, result)
    return result


def _suffix(out: str | Path, run: Run, table: bool, several: bool) -> str:
    from flowvae.figures.images import is_image

    if table:
        return suffix_among(out, ".csv", ".parquet")
    pictures = (".png",) if is_image(run.model.data_shape) else ()
    suffix = suffix_among(out, ".npy", ".npz", *pictures)
    if suffix == ".npy" and several:
        raise UserError(f"out: expected a .npz for draws and intervals, got {out}")
    return suffix


def _read(run: Run, data: Any, condition: Any) -> tuple[Any, Any]:
    """Arrays, or a table; the other is none."""
    section = run.config.data
    if isinstance(data, np.ndarray):
        _check_takes_arrays(run, "an array")
        return SourceArrays("array", {"all": data}), None
    if not isinstance(data, str | Path):
        try:
            return None, arrow_module("pyarrow").table(data)
        except (TypeError, ValueError, arrow_module("pyarrow").ArrowException) as error:
            raise UserError(f"data: expected a file, an array or a table: {error}") from None
    path, budget = Path(data).expanduser(), int(section.memory_budget * 2**30)
    if not path.is_file():
        raise UserError(f"data: no such file: {data}")
    if is_table(path):
        if run.model.columns is None:
            raise UserError(f"data: the run's model was trained on arrays, {data} is a table")
        return None, read_table(path, budget)
    if path.suffix not in (".npy", ".npz"):
        raise UserError(f"data: expected a .csv, .parquet, .npy or .npz file, got {data}")
    _check_takes_arrays(run, data)
    wanted = () if condition is not None else section.condition
    found = numpy_file(path, budget, section.label_column, wanted, least=1)
    if list(found.parts) != ["all"]:
        raise UserError(
            f"data: expected one array x in {data}, got x_{', x_'.join(found.parts)}; save what is "
            "to be filled in as x"
        )
    return found, None


def _check_takes_arrays(run: Run, name: Any) -> None:
    if any(column.kind != "numeric" for column in run.model.columns or ()):
        raise UserError(
            f"data: the run's model expects a .csv or .parquet table of its columns, got {name}"
        )


def _arrays(run: Run, found: SourceArrays, *, given: bool) -> tuple[np.ndarray, Dataset]:
    """Values in their own units, and as the model is given them."""
    x, model, name = found.parts["all"], run.model, found.name
    if isinstance(x, ArrayFile):
        raise UserError(f"data: {name} is larger than memory_budget; raise it")
    if x.dtype.kind not in "fiub" or x.ndim < 2 or tuple(x.shape[1:]) != model.data_shape:
        expected = ", ".join(map(str, model.data_shape))
        raise UserError(
            f"data: expected numbers of shape (N, {expected}), the run's, in {name}, got "
            f"{x.dtype} {x.shape}"
        )
    if x.dtype.kind != "f":
        x = x / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)
    if np.isinf(x).any():
        raise UserError(
            f"data: expected finite numbers, or NaN where one is missing, in {name}, got infinity"
        )
    flat = x.reshape(len(x), -1)
    split = Split(ColumnScaler(model.columns).encode(flat, np.float32))
    if "all" in found.labels:
        labels = adopt(np.zeros((len(x), 1)), found.labels["all"], name).labels
        split = replace(split, labels=labels)
    if "all" in found.conditions:
        split = replace(split, condition=torch.from_numpy(found.conditions["all"]))
    dataset = Dataset(name, split, split, model.data_shape, columns=model.columns)
    if given:
        return x, dataset
    return x, conditioned(dataset, run.config.data.condition, model.condition)


def _table(run: Run, table: Any, *, given: bool) -> Dataset:
    """The rows of a table, in order, as the model is given them."""
    section, model = run.config.data, run.model
    if model.columns is None:
        raise UserError("data: the run's model was trained on arrays, got a table")
    fields = section.model_dump() | {"missing": "model", "seed": run.config.seed}
    fields["validation_fraction"] = 0.0  # every row, in order
    if given:
        fields["condition"] = ()
    if given or section.condition != (LABELS,):
        fields["label_column"] = None  # it is not looked at, so it may have gaps
    options = Options(**fields)
    parts = {"train": table, "test": table.slice(0, 1)}  # a data set has some test data
    dataset = arrow_dataset("table", parts, options, model.columns, model.condition)
    if given:
        return dataset
    return conditioned(dataset, section.condition, model.condition)


def _in_own_values(columns: Sequence[Column], table: Any, found: Imputed) -> TableImputation:
    places = encoded_slices(columns)
    missing = {
        column.name: found.missing[:, place.start].cpu().numpy()
        for column, place in zip(columns, places, strict=True)
    }
    numeric = [column for column in columns if column.kind == "numeric"]

    def filled(numbers: Tensor, of: Sequence[Column]) -> dict[str, np.ndarray]:
        decoded = decode_table(columns, numbers.cpu().numpy())
        return {
            column.name: _values(column, _cells(table, column, missing, decoded)) for column in of
        }

    return TableImputation(
        filled(found.mean, columns),
        missing,
        {
            column.name: _probabilities(column, found.mean[:, place])
            for column, place in zip(columns, places, strict=True)
            if column.kind != "numeric"
        },
        found.effective_samples.cpu().double().numpy(),
        tuple(filled(draw, columns) for draw in found.draws),
        {} if found.low is None else filled(found.low, numeric),
        {} if found.high is None else filled(found.high, numeric),
        table,
    )


def _probabilities(column: Column, mean: Tensor) -> np.ndarray:
    p = mean.cpu().double().numpy()
    return np.concatenate([1 - p, p], 1) if column.kind == "binary" else p


def _cells(
    table: Any, column: Column, missing: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
) -> Cells:
    """A column as Python values, what was missing filled in, in the column's own type."""
    cells: Cells = table.column(column.name).to_pylist()
    there = next((value for value in cells if value is not None), None)
    for row in np.flatnonzero(missing[column.name]):
        value = new[column.name][row]
        if column.kind == "numeric":
            cells[row] = float(value)
        elif isinstance(there, bool):
            cells[row] = value == "true"
        else:
            cells[row] = value if there is None or isinstance(there, str) else type(there)(value)
    return cells


def _values(column: Column, cells: Cells) -> np.ndarray:
    if column.kind == "numeric":
        return np.array(cells, np.float64)
    found = np.empty(len(cells), object)
    found[:] = cells
    return found


def _write(run: Run, out: str | Path, suffix: str, result: Any) -> None:
    if suffix in (".csv", ".parquet"):
        _write_table(run.model.columns or (), out, suffix, result)
    elif suffix == ".npy":
        with replacing(out) as temporary:
            np.save(temporary, result.filled)
    elif suffix == ".npz":
        arrays = {"x": result.filled, "missing": result.missing}
        arrays["effective_samples"] = result.effective_samples
        if len(result.draws):
            arrays["draws"] = result.draws
        if result.low is not None:
            arrays |= {"low": result.low, "high": result.high}
        write_npz(out, arrays)
    else:
        from flowvae.figures import image_fillings, save_figure

        gaps = result.missing.reshape(len(result.missing), -1).any(1)
        chosen = np.flatnonzero(gaps)[:_MOST_PICTURES]
        if not len(chosen):
            raise UserError("data: expected gaps to show, got none")
        shown = [np.where(result.missing, np.nan, result.filled)[chosen], result.filled[chosen]]
        shown += [draw[chosen] for draw in result.draws[:_MOST_DRAWS]]
        save_figure(image_fillings(shown), out)


def _write_table(
    columns: Sequence[Column], out: str | Path, suffix: str, result: TableImputation
) -> None:
    """The table's columns in their order, each draw after the other, the intervals last."""
    known, names = {column.name: column for column in columns}, list(result.table.column_names)
    new = [name for name in ("draw",) if result.draws]
    new += [f"{name}_{end}" for name in result.low for end in ("low", "high")]
    for name in new:
        if name in names:
            raise UserError(f"out: expected no column {name!r} in the table, for it is to be added")
    written: dict[str, Cells] = {name: [] for name in (*new[: bool(result.draws)], *names)}
    written |= {name: [] for name in new}
    in_words = suffix == ".csv"
    for number, values in enumerate(result.draws or (result.filled,), 1):
        for name in names:
            cells: Cells = result.table.column(name).to_pylist()
            if name in known:
                for row in np.flatnonzero(result.missing[name]):
                    value = values[name][row]
                    numeric = known[name].kind == "numeric"
                    value = float(value) if numeric else value
                    cells[row] = cell(known[name], value) if numeric and in_words else value
            written[name] += cells
        if result.draws:
            written["draw"] += [number] * len(result.effective_samples)
        for end, ends in (("low", result.low), ("high", result.high)):
            for name, each in ends.items():
                gaps = result.missing[name]
                shown = [cell(known[name], float(v)) if in_words else float(v) for v in each]
                rows = zip(gaps, shown, strict=True)
                written[f"{name}_{end}"] += [value if gap else None for gap, value in rows]
    if in_words:
        rows = zip(*(map(_word, cells) for cells in written.values()), strict=True)
        write_csv(out, list(written), list(rows))
        return
    arrow = arrow_module("pyarrow")
    table = arrow.table({name: arrow.array(_of_one_type(cells)) for name, cells in written.items()})
    with replacing(out) as temporary:
        arrow_module("pyarrow.parquet").write_table(table, temporary)


def _word(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _of_one_type(cells: Cells) -> Cells:
    """Whole numbers as real ones, where some of the column are."""
    if any(isinstance(value, float) for value in cells):
        return [None if value is None else float(value) for value in cells]
    return cells

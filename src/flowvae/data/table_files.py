"""CSV and Parquet files, read by pyarrow."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flowvae.data.columns import Column, encoded_width
from flowvae.data.dataset import Dataset, Split, adopt
from flowvae.data.found import cut
from flowvae.data.tables import (
    RawColumn,
    encode_table,
    fit_columns,
    infer_columns,
    texts,
)
from flowvae.errors import UserError

if TYPE_CHECKING:
    from flowvae.data.load import Options

__all__ = ["TABLE_SUFFIXES", "Missing", "arrow_dataset", "is_table", "table_file"]

Missing = Literal["refuse", "impute"]

TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq")
_LIKE_LABELS = frozenset(
    ("label", "labels", "class", "target", "targets", "y", "outcome", "diagnosis", "species")
)


def is_table(path: Path) -> bool:
    return path.name.lower().endswith(TABLE_SUFFIXES)


def table_file(path: Path, options: Options, columns: Sequence[Column] | None = None) -> Dataset:
    """A CSV or Parquet file as a data set, by ``columns`` if these are known already.

    Raises:
        UserError: pyarrow is not installed; the file is empty, ragged or unreadable; a column
            cannot be used, see :func:`flowvae.data.tables.infer_columns`.
    """
    parquet = path.name.lower().endswith((".parquet", ".pq"))
    read = _read_parquet(path) if parquet else _read_csv(path)
    return arrow_dataset(str(path.resolve()), {"all": read}, options, columns)


def arrow_dataset(
    name: str,
    parts: dict[str, Any],
    options: Options,
    columns: Sequence[Column] | None = None,
    label_names: Sequence[str] | None = None,
) -> Dataset:
    """Arrow tables by split name, or all in one, as a data set.

    Args:
        name: as recorded.
        parts: ``train``, ``test`` and perhaps ``validation``, or ``all``.
        options: of loading.
        columns: those of a trained model; else they are found here.
        label_names: what integer labels stand for.
    """
    tables = {part: _raw_table(name, table, options, columns) for part, table in parts.items()}
    drawn = _drawn_labels(name, tables, options, required=columns is None)
    notes: tuple[str, ...] = ()
    unfitted: tuple[Column, ...] = ()
    if columns is None:
        whole = _joined(tables)
        notes = _notes(whole, options.label_column)
        unfitted = infer_columns(whole, options.categorical_columns)
    counts = {part: len(next(iter(table.values()))) for part, table in tables.items()}
    chosen, record = cut(counts, options.test_fraction, options.validation_fraction, options.seed)
    rows = {
        split: tables[part] if numbers is None else {k: v[numbers] for k, v in tables[part].items()}
        for split, (part, numbers) in chosen.items()
    }
    impute = options.missing == "impute"
    if columns is None:
        columns = fit_columns(unfitted, rows["train"], impute)
    elif impute:
        columns = [_filled(column) for column in columns]
    codes, names = _labels(drawn, label_names)
    splits: dict[str, Split] = {}
    for split, (part, numbers) in chosen.items():
        labels = codes.get(part)
        labels = labels if labels is None or numbers is None else labels[numbers]
        values = encode_table(columns, rows[split], f"{name}: {split}")
        splits[split] = adopt(values, labels, f"{name}: {split}", owned=True)
    return Dataset(
        name,
        splits["train"],
        splits["test"],
        (encoded_width(columns),),
        validation=splits.get("validation"),
        columns=tuple(columns),
        label_names=names,
        record=record,
        notes=notes,
    )


def _drawn_labels(
    name: str, tables: dict[str, dict[str, RawColumn]], options: Options, required: bool
) -> dict[str, RawColumn]:
    """The label column of every table; it and what is to be dropped are taken out of them.

    New data for a trained model may come without labels, then they are not ``required``.
    """
    wanted = options.label_column
    drawn: dict[str, RawColumn] = {}
    if wanted is not None and (required or all(wanted in table for table in tables.values())):
        drawn = {part: _label(name, table, wanted) for part, table in tables.items()}
    for table in tables.values():
        if wanted is not None:
            table.pop(wanted, None)
        if not table:
            raise UserError(f"data: {name} has no column left to learn from")
    return drawn


def _filled(column: Column) -> Column:
    """For new data with gaps under a model that was fitted without: the mean, or the first text."""
    if column.fill is not None:
        return column
    return replace(column, fill=column.mean if column.kind == "numeric" else column.categories[0])


def _arrow(what: str) -> Any:
    try:
        return import_module(what)
    except ImportError:
        raise UserError(
            "data: tables need pyarrow, which is not installed; pip install 'flowvae[tables]'"
        ) from None


def _read_parquet(path: Path) -> Any:
    parquet, arrow = _arrow("pyarrow.parquet"), _arrow("pyarrow")
    try:
        return parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"data: {path} is no readable Parquet file: {_short(error)}") from None


def _read_csv(path: Path) -> Any:
    csv, arrow = _arrow("pyarrow.csv"), _arrow("pyarrow")
    opened = gzip.open if path.name.endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            first = file.readline(2**20).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"data: {path} is no readable CSV file: {_short(error)}") from None
    if not first.strip():
        raise UserError(f"data: expected a table with a line of column names, {path} is empty")
    delimiter = max(",;\t", key=first.count)
    fields = [field.strip().strip('"') for field in first.strip().split(delimiter)]
    # A first line of numbers is a row, not names.
    names = (
        [f"column_{k + 1}" for k in range(len(fields))] if all(map(_is_number, fields)) else None
    )
    try:
        return csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=names),
            parse_options=csv.ParseOptions(delimiter=delimiter),
            convert_options=csv.ConvertOptions(strings_can_be_null=True),
        )
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"data: {path} is no readable CSV file: {_short(error)}") from None


def _raw_table(
    name: str, table: Any, options: Options, columns: Sequence[Column] | None
) -> dict[str, RawColumn]:
    names = [each or f"column_{k + 1}" for k, each in enumerate(table.column_names)]
    twice = next((each for each in names if names.count(each) > 1), None)
    if twice is not None:
        raise UserError(f"data: expected columns of different names in {name}, got two {twice!r}")
    if table.num_rows < 2:
        raise UserError(f"data: expected at least 2 rows in {name}, got {table.num_rows}")
    for field in ("drop_columns", "categorical_columns"):
        for each in getattr(options, field):
            if each not in names and columns is None:
                raise UserError(
                    f"{field}: expected columns of {name}, {', '.join(names)[:300]}, got {each!r}"
                )
    wanted = set(names) if columns is None else {column.name for column in columns}
    wanted -= set(options.drop_columns)
    if options.label_column is not None:
        wanted.add(options.label_column)
    return {
        each: _raw_column(name, each, column)
        for each, column in zip(names, table.columns, strict=True)
        if each in wanted
    }


def _raw_column(name: str, column_name: str, column: Any) -> RawColumn:
    arrow = _arrow("pyarrow")
    types, kind = arrow.types, column.type
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    missing = np.asarray(column.is_null(nan_is_null=types.is_floating(kind)))
    if types.is_null(kind):
        return RawColumn(np.full(len(column), np.nan), np.ones(len(column), bool))
    if types.is_boolean(kind):
        texts_ = np.array(
            [None if v is None else str(v).lower() for v in column.to_pylist()], object
        )
        return RawColumn(texts_, missing)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        values = np.asarray(column.cast(arrow.float64()).fill_null(0.0), np.float64)
        return RawColumn(np.where(missing, 0.0, values), missing)
    if types.is_string(kind) or types.is_large_string(kind):
        return RawColumn(np.array(column.to_pylist(), object), missing)
    raise UserError(
        f"data: column {column_name!r} of {name}: expected numbers, texts or true/false, got "
        f"{kind}; convert it, or leave it out by drop_columns"
    )


def _label(name: str, table: dict[str, RawColumn], wanted: str) -> RawColumn:
    if wanted not in table:
        raise UserError(
            f"label_column: expected a column of {name}, {', '.join(table)[:300]}, got {wanted!r}"
        )
    raw = table[wanted]
    if raw.missing.any():
        raise UserError(
            f"label_column: expected a label in every row of {name}, got {raw.missing.sum()} "
            f"missing in {wanted!r}"
        )
    return raw


def _labels(
    drawn: dict[str, RawColumn], label_names: Sequence[str] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Labels as numbers: whole numbers and quantities as they are, texts by their order."""
    if not drawn:
        return {}, None
    if all(raw.numeric for raw in drawn.values()):
        whole = all((raw.values == np.round(raw.values)).all() for raw in drawn.values())
        kind = np.int64 if whole else np.float64
        names = tuple(label_names) if label_names is not None else None
        return {part: raw.values.astype(kind) for part, raw in drawn.items()}, names
    names = tuple(sorted({text for raw in drawn.values() for text in texts(raw)}))
    code = {text: number for number, text in enumerate(names)}
    return {
        part: np.array([code[text] for text in texts(raw)]) for part, raw in drawn.items()
    }, names


def _joined(tables: dict[str, dict[str, RawColumn]]) -> dict[str, RawColumn]:
    first, *rest = tables.values()
    found = dict(first)
    for other in rest:
        for key in found:
            if key not in other:
                raise UserError(f"data: column {key!r} is not in every split")
            if found[key].numeric != other[key].numeric:
                raise UserError(f"data: column {key!r} has numbers in one split, texts in another")
            values = np.concatenate([found[key].values, other[key].values])
            missing = np.concatenate([found[key].missing, other[key].missing])
            found[key] = RawColumn(values, missing)
    return found


def _notes(table: dict[str, RawColumn], label_column: str | None) -> tuple[str, ...]:
    found = []
    for name, raw in table.items():
        if label_column is None and name.lower() in _LIKE_LABELS:
            found.append(
                f"column {name!r} looks like a label and is learned as a feature; "
                f"label_column={name} keeps it apart"
            )
        counts = raw.numeric and len(raw) > 2 and not raw.missing.any()
        if counts and (np.diff(raw.values) == 1).all():
            found.append(
                f"column {name!r} counts the rows and is learned as a feature; "
                f"drop_columns={name} leaves it out"
            )
    return tuple(found)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]

"""CSV and Parquet files, read by pyarrow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from flowvae.data.arrays import whole_or_real
from flowvae.data.arrow_files import arrow_module, read_csv, read_parquet, short
from flowvae.data.columns import Column, encoded_width
from flowvae.data.conditions import LABELS
from flowvae.data.dataset import Dataset, Split, adopt
from flowvae.data.rows import gib
from flowvae.data.splits import cut
from flowvae.data.tables import (
    RawColumn,
    encode_table,
    fit_columns,
    infer_columns,
    texts,
)
from flowvae.errors import UserError

if TYPE_CHECKING:
    from flowvae.data.options import Options

__all__ = ["TABLE_SUFFIXES", "Missing", "arrow_dataset", "is_table", "read_table", "table_file"]

Missing = Literal["refuse", "impute", "model"]

TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq")
_LARGEST_WHOLE = 2**53  # float64 tells larger whole numbers no longer apart
_LIKE_LABELS = frozenset(
    ("label", "labels", "class", "target", "targets", "y", "outcome", "diagnosis", "species")
)


def is_table(path: Path) -> bool:
    return path.name.lower().endswith(TABLE_SUFFIXES)


def table_file(
    path: Path,
    options: Options,
    columns: Sequence[Column] | None = None,
    condition: Sequence[Column] | None = None,
) -> Dataset:
    """A CSV or Parquet file as a data set, by a trained model's columns if they are given.

    Raises:
        UserError: pyarrow is not installed; the file is empty, ragged or unreadable; a column
            cannot be used, see :func:`flowvae.data.tables.infer_columns`.
    """
    read = read_table(path, options.budget_bytes)
    return arrow_dataset(str(path.resolve()), {"all": read}, options, columns, condition)


def read_table(path: Path, budget: int) -> Any:
    """A CSV or Parquet file as an Arrow table, of so many bytes at most."""
    parquet = path.name.lower().endswith((".parquet", ".pq"))
    return (read_parquet if parquet else read_csv)(path, budget)


def arrow_dataset(
    name: str,
    parts: dict[str, Any],
    options: Options,
    columns: Sequence[Column] | None = None,
    condition: Sequence[Column] | None = None,
    label_names: Sequence[str] | None = None,
) -> Dataset:
    """Arrow tables by split name, or all in one, as a data set.

    Args:
        name: as recorded.
        parts: ``train``, ``test`` and perhaps ``validation``, or ``all``.
        options: of loading.
        columns: those of a trained model; else they are found here.
        condition: likewise, those that a trained model is conditioned on.
        label_names: what integer labels stand for.
    """
    tables = {part: _raw_table(name, table, options, columns) for part, table in parts.items()}
    drawn = _drawn_labels(name, tables, options, required=columns is None)
    given = _drawn_conditions(name, tables, options)
    notes: tuple[str, ...] = ()
    unfitted: tuple[Column, ...] = ()
    if columns is None:
        whole = _joined(tables)
        notes = _notes(whole, options.label_column)
        unfitted = infer_columns(whole, _of(options.categorical_columns, whole))
    counts = {part: len(next(iter(table.values()))) for part, table in tables.items()}
    chosen, record = cut(counts, options.test_fraction, options.validation_fraction, options.seed)
    rows = {split: _Rows(tables[part], numbers) for split, (part, numbers) in chosen.items()}
    impute, gaps = options.missing == "impute", options.missing == "model"
    if columns is None:
        columns = fit_columns(unfitted, rows["train"], impute)
    elif impute:
        columns = [_filled(column) for column in columns]
    count, P = sum(counts.values()), encoded_width(columns)
    if 4 * count * P > options.budget_bytes:
        raise UserError(
            f"data: {name} becomes {count} rows of {P} numbers, {gib(4 * count * P)}, more than "
            "memory_budget; raise it, or leave out columns of many categories by drop_columns"
        )
    if given and condition is None:
        joined = _joined(given)
        found = infer_columns(joined, _of(options.categorical_columns, joined))
        part, numbers = chosen["train"]
        condition = fit_columns(found, _Rows(given[part], numbers))
    codes, names = _labels(drawn, label_names)
    splits: dict[str, Split] = {}
    for split, (part, numbers) in chosen.items():
        labels = codes.get(part)
        labels = labels if labels is None or numbers is None else labels[numbers]
        where = f"{name}: {split}"
        values = encode_table(columns, rows[split], where, numbers, gaps=gaps)
        splits[split] = adopt(values, labels, where, owned=True, missing=gaps)
        if given and condition is not None:
            encoded = encode_table(condition, _Rows(given[part], numbers), where, numbers)
            splits[split] = replace(splits[split], condition=torch.from_numpy(encoded))
    return Dataset(
        name,
        splits["train"],
        splits["test"],
        (encoded_width(columns),),
        validation=splits.get("validation"),
        columns=tuple(columns),
        condition=tuple(condition) if given and condition is not None else None,
        label_names=names,
        record=record,
        notes=notes,
    )


def _of(names: Sequence[str], table: Mapping[str, RawColumn]) -> list[str]:
    """Those that are columns here; others may be what the data is conditioned on, or labels."""
    return [name for name in names if name in table]


class _Rows(Mapping[str, RawColumn]):
    """Some rows of a table, of which a column is copied when it is asked for."""

    def __init__(self, table: Mapping[str, RawColumn], rows: np.ndarray | None) -> None:
        self.table, self.rows = table, rows

    def __getitem__(self, name: str) -> RawColumn:
        column = self.table[name]
        return column if self.rows is None else column[self.rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)


def _drawn_labels(
    name: str, tables: dict[str, dict[str, RawColumn]], options: Options, required: bool
) -> dict[str, RawColumn]:
    """The label column of every table; it and what is to be dropped are taken out of them.

    New data for a trained model may come without labels, then they are not ``required``.
    """
    wanted = options.label_column
    drawn: dict[str, RawColumn] = {}
    if wanted is not None and (required or all(wanted in table for table in tables.values())):
        drawn = {part: _label(name, table, options) for part, table in tables.items()}
    for table in tables.values():
        if wanted is not None:
            table.pop(wanted, None)
        if not table:
            raise UserError(f"data: {name} has no column left to learn from")
    return drawn


def _drawn_conditions(
    name: str, tables: dict[str, dict[str, RawColumn]], options: Options
) -> dict[str, dict[str, RawColumn]]:
    """The columns that the data is conditioned on, taken out of the tables; none for labels.

    A column may be called as the labels are; where a label column is named, they are meant.
    """
    first = next(iter(tables.values()))
    named = options.label_column is None
    wanted = [each for each in options.condition if each != LABELS or (named and each in first)]
    if not wanted:
        return {}
    for each in wanted:
        if any(each not in table for table in tables.values()):
            raise UserError(
                f"condition: expected columns of {name}, {', '.join(first)[:300]}, got {each!r}"
            )
    found = {part: {n: table.pop(n) for n in wanted} for part, table in tables.items()}
    if not all(tables.values()):
        raise UserError(f"data: {name} has no column left to learn from")
    return found


def _filled(column: Column) -> Column:
    """For new data with gaps under a model that was fitted without: the mean, or the first text."""
    if column.fill is not None:
        return column
    return replace(column, fill=column.mean if column.kind == "numeric" else column.categories[0])


def _raw_table(
    name: str, table: Any, options: Options, columns: Sequence[Column] | None
) -> dict[str, RawColumn]:
    names = [each or f"column_{k + 1}" for k, each in enumerate(table.column_names)]
    twice = [each for each, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(
            f"data: expected columns of different names in {name}, got two {twice[0]!r}"
        )
    least = 2 if columns is None else 1  # to learn from, or to look at
    if table.num_rows < least:
        rows = f"{least} row{'s' * (least - 1)}"
        raise UserError(f"data: expected at least {rows} in {name}, got {table.num_rows}")
    for field in ("drop_columns", "categorical_columns"):
        for each in getattr(options, field):
            if each not in names and columns is None:
                raise UserError(
                    f"{field}: expected columns of {name}, {', '.join(names)[:300]}, got {each!r}"
                )
    wanted = set(names) if columns is None else {column.name for column in columns}
    wanted |= set(options.condition) & set(names)
    wanted -= set(options.drop_columns)
    if options.label_column is not None:
        wanted.add(options.label_column)
    return {
        each: _raw_column(name, each, column)
        for each, column in zip(names, table.columns, strict=True)
        if each in wanted
    }


def _raw_column(name: str, column_name: str, column: Any) -> RawColumn:
    arrow = arrow_module("pyarrow")
    where = f"data: column {column_name!r} of {name}"
    try:
        return _converted(arrow, where, column)
    except arrow.ArrowException as error:
        raise UserError(
            f"{where}: cannot be read as {column.type}: {short(error)}; leave it out by "
            "drop_columns"
        ) from None


def _converted(arrow: Any, where: str, column: Any) -> RawColumn:
    types, kind = arrow.types, column.type
    inner = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_string(inner) or types.is_large_string(inner):
        return _words(types, column)
    if types.is_dictionary(kind):
        column, kind = column.cast(inner), inner
    missing = np.asarray(column.is_null(nan_is_null=types.is_floating(kind)))
    if types.is_null(kind):
        return RawColumn(np.full(len(column), np.nan), np.ones(len(column), bool))
    if types.is_boolean(kind):
        return _words(types, column.cast(arrow.string()))
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)):
        raise UserError(
            f"{where}: expected numbers, texts or true/false, got {kind}; convert it, or leave it "
            "out by drop_columns"
        )
    # Of whole numbers the nearest that float64 has, not an error of Arrow's: see below.
    values = np.asarray(column.cast(arrow.float64(), safe=False).fill_null(0.0), np.float64)
    if missing.any():
        values = np.where(missing, 0.0, values)
    if types.is_integer(kind) and np.abs(values).max(initial=0.0) >= _LARGEST_WHOLE:
        raise UserError(
            f"{where}: expected whole numbers below 2^53, got {values[np.abs(values).argmax()]:.0f}"
            "; leave it out by drop_columns, or convert it"
        )
    return RawColumn(values, missing)


def _words(types: Any, column: Any) -> RawColumn:
    """Texts as objects, of which those that are alike are one; None where there is none."""
    parts = [np.empty(0, object)]
    for chunk in column.chunks:
        coded = chunk if types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        words = np.array([*coded.dictionary.to_pylist(), None], object)
        parts.append(words[np.asarray(coded.indices.fill_null(len(words) - 1))])
    values = np.concatenate(parts)
    return RawColumn(values, np.array(values == None, bool))  # noqa: E711  elementwise


def _label(name: str, table: dict[str, RawColumn], options: Options) -> RawColumn:
    wanted = options.label_column or ""
    if wanted not in table:
        raise UserError(
            f"label_column: expected a column of {name}, {', '.join(table)[:300]}, got {wanted!r}"
        )
    raw = table[wanted]
    if raw.missing.any() and options.condition != (LABELS,):
        raise UserError(
            f"label_column: expected a label in every row of {name}, got {raw.missing.sum()} "
            f"missing in {wanted!r}"
        )
    return raw


def _labels(
    drawn: dict[str, RawColumn], label_names: Sequence[str] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Labels as numbers: whole numbers and quantities as they are, texts by their order.

    One that is missing is -1, or NaN among quantities.
    """
    if not drawn:
        return {}, None
    if all(raw.numeric for raw in drawn.values()):
        found = {part: whole_or_real(raw.values) for part, raw in drawn.items()}
        if any(values.dtype.kind == "f" for values in found.values()):
            found = {part: values.astype(np.float64) for part, values in found.items()}
        for part, raw in drawn.items():
            found[part][raw.missing] = np.nan if found[part].dtype.kind == "f" else -1
        return found, None if label_names is None else tuple(label_names)
    there = (texts(raw[~raw.missing]) for raw in drawn.values())
    names = tuple(sorted({text for each in there for text in each}))
    code: dict[Any, int] = {text: number for number, text in enumerate(names)}
    return {
        part: np.array([code.get(text, -1) for text in texts(raw)]) for part, raw in drawn.items()
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

"""CSV and Parquet files as Arrow tables, read by pyarrow, under a budget of memory."""

from __future__ import annotations

import gzip
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

from flowvae.data.rows import gib
from flowvae.data.tables import is_number
from flowvae.errors import UserError

__all__ = ["arrow_module", "read_csv", "read_parquet", "short"]

# At its height: what was read, its copy as NumPy has it, and its splits.
_BYTES_PER_VALUE = 20
_LONGEST_LINE = 2**20
_BLOCK = 2**20


def arrow_module(what: str) -> Any:
    try:
        return import_module(what)
    except ImportError:
        raise UserError(
            "data: tables need pyarrow, which is not installed; pip install 'flowvae[tables]'"
        ) from None


def read_parquet(path: Path, budget: int) -> Any:
    parquet, arrow = arrow_module("pyarrow.parquet"), arrow_module("pyarrow")
    try:
        with parquet.ParquetFile(path) as opened:
            about, schema = opened.metadata, opened.schema_arrow
        groups = [about.row_group(k) for k in range(about.num_row_groups)]
        columns = [group.column(k) for group in groups for k in range(group.num_columns)]
        values = max(about.num_rows * len(schema), sum(column.num_values for column in columns))
        content = sum(column.total_uncompressed_size for column in columns)
        _check_budget(path, values, content, budget)
        # Texts as numbers of words: a word that is repeated takes no memory again.
        texts = (arrow.string(), arrow.large_string(), arrow.binary(), arrow.large_binary())
        words = [field.name for field in schema if field.type in texts]
        with parquet.ParquetFile(path, read_dictionary=words) as opened:
            return opened.read()
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"data: {path} is no readable Parquet file: {short(error)}") from None


def read_csv(path: Path, budget: int) -> Any:
    csv, arrow = arrow_module("pyarrow.csv"), arrow_module("pyarrow")
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            line = file.readline(_LONGEST_LINE)
            if len(line) == _LONGEST_LINE:
                raise UserError(f"data: expected a first line below 1 MiB in {path}, got a longer")
            first = line.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"data: {path} is no readable CSV file: {short(error)}") from None
    if not first.strip():
        raise UserError(f"data: expected a table with a line of column names, {path} is empty")
    delimiter = max(",;\t", key=first.count)
    fields = [field.strip().strip('"') for field in first.strip().split(delimiter)]
    # A first line of numbers is a row, not names.
    names = [f"column_{k + 1}" for k in range(len(fields))] if all(map(is_number, fields)) else None
    try:
        with opened(path, "rb") as file:
            return csv.read_csv(
                _Counted(file, path, delimiter.encode(), budget),
                read_options=csv.ReadOptions(column_names=names),
                parse_options=csv.ParseOptions(delimiter=delimiter),
                convert_options=csv.ConvertOptions(strings_can_be_null=True),
            )
    except (arrow.ArrowException, OSError, EOFError, zlib.error) as error:
        raise UserError(f"data: {path} is no readable CSV file: {short(error)}") from None


class _Counted:
    """A file as pyarrow reads it, that stops where its values are more than fit the budget."""

    closed = False

    def __init__(self, file: Any, path: Path, delimiter: bytes, budget: int) -> None:
        self.file, self.path, self.delimiter, self.budget = file, path, delimiter, budget
        self.values = self.size = 0

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(min(size, _BLOCK) if size >= 0 else _BLOCK)
        lines = max(block.count(b"\n"), block.count(b"\r"))
        self.values += block.count(self.delimiter) + lines
        self.size += len(block)
        _check_budget(self.path, self.values, self.size, self.budget)
        return block

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def _check_budget(path: Path, values: int, content: int, budget: int) -> None:
    """Tables are read whole: by their number of values, and bytes of texts."""
    need = max(_BYTES_PER_VALUE * values, content)
    if need > budget:
        raise UserError(
            f"data: {path} is a table of {values} values or more, which takes {gib(need)} to read, "
            "more than memory_budget; raise it, or save numbers as a .npy, which is read from "
            "disk as needed"
        )


def short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]

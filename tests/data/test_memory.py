"""Files that would take far more memory than they are large: refused before it is taken."""

from __future__ import annotations

import pytest

pyarrow = pytest.importorskip("pyarrow")

import gzip
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

BUDGET = 0.1  # GiB


_MIB = 2**20


def header(shape: str, descr: str = "'<f8'", order: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def zeros(packed: bytes, megabytes: int, beginning: bytes = b"") -> bytes:
    """A gzip of so many times what ``packed`` is a gzip of: its members may follow one another."""
    return (gzip.compress(beginning) if beginning else b"") + packed * (megabytes // 16)


ZEROS = gzip.compress(bytes(16 * _MIB))


LINES = gzip.compress(b"0\n" * (8 * _MIB))


def idx_header(*shape: int) -> bytes:
    return struct.pack(f">BBBB{len(shape)}i", 0, 0, 8, len(shape), *shape)


def npz(path: Path) -> None:
    """One member of 192 MiB."""
    with (
        ZipFile(path, "w", ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(header("(25165824, 8)", "'|u1'"))
        for _ in range(12):
            member.write(bytes(16 * _MIB))


def parquet(count: int, values: Callable[[], dict]) -> Callable[[Path], None]:
    """Row groups of one million, ``count`` times."""

    def write(path: Path) -> None:
        table = pa.table(values())
        with pq.ParquetWriter(path, table.schema) as writer:
            for _ in range(count):
                writer.write_table(table)

    return write


def long_words(length: int) -> dict:
    """A few long texts, repeated: a dictionary and its numbers."""
    words = pa.array([chr(97 + k) * length for k in range(2)])
    return {"x": pa.DictionaryArray.from_arrays(pa.array(np.arange(10**5) % 2), words)}


def many_categories() -> dict:
    names = [f"n{k}" for k in range(900)]
    return {f"c{c}": np.random.default_rng(c).choice(names, 50_000) for c in range(3)}


def picture(path: Path) -> None:
    path.mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(path / f"{name}.png")


def text(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


# File -> how it is written, and what is said of it.
BOMBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "rows.npy": (text(header("(10**12, 4)") + bytes(64)), "header is broken"),
    "many.npy": (text(header("(1000000000000, 4)") + bytes(64)), "cut short"),
    "minus.npy": (text(header("(-1, 4)") + bytes(64)), "none negative"),
    "truth.npy": (text(header("(True, 4)") + bytes(64)), "none negative"),
    "void.npy": (text(header("(1000000000000, 4)", "'|V0'")), "expected numbers"),
    "empty.npy": (text(header("(1000000000000, 4)", "'<U0'")), "expected numbers"),
    "fields.npy": (text(header("(9, 4)", "[('a', '<f8', (1000000,))]")), "expected numbers"),
    "none.npy": (text(header("(0, 1000000000000, 1000000000000)")), "below 2"),
    "columns.npy": (text(header("(1000000000000, 4)", order="True") + bytes(64)), "cut short"),
    "deep.npy": (text(header("(2, " + "1, " * 80 + ")") + bytes(16)), "at most 32 sizes"),
    "x.npz": (npz, "more than memory_budget, and is compressed"),
    "zeros.gz": (text(zeros(ZEROS, 1024)), "expected"),
    "zeros-idx1-ubyte.gz": (text(zeros(ZEROS, 1024)), "expected an IDX file"),
    "large-idx3-ubyte.gz": (
        text(zeros(ZEROS, 1024, idx_header(2**20, 32, 32))),
        "more than memory_budget; raise it, or decompress",
    ),
    "false-idx3-ubyte.gz": (text(zeros(ZEROS, 16, idx_header(2**30, 2**30, 9))), "below 2"),
    "deep-idx255-ubyte": (text(idx_header(*[1] * 255) + b"1"), "at most 32 sizes"),
    "minus-idx2-ubyte": (text(idx_header(-1, -1) + b"1"), "none negative"),
    "longer-idx2-ubyte.gz": (text(zeros(ZEROS, 1024, idx_header(9, 9))), "got more"),
    "lines.csv.gz": (text(zeros(LINES, 1024, b"x\n")), "more than memory_budget"),
    "line.csv.gz": (text(zeros(ZEROS, 1024)), "first line below 1 MiB"),
    "runs.parquet": (
        parquet(8, lambda: {"x": np.zeros(10**6), "y": np.ones(10**6)}),
        "more than memory_budget",
    ),
    "lists.parquet": (
        parquet(8, lambda: {"x": [[0] * 10**6]}),
        "more than memory_budget",
    ),
    "words.parquet": (parquet(1, lambda: long_words(10**5)), "fine"),
    "large_words.parquet": (
        parquet(1, lambda: {"x": pa.array(["a" * 10**5, "b" * 10**5] * 750, pa.large_string())}),
        "fine",
    ),
    "categories.parquet": (parquet(1, many_categories), "50000 rows of 2700 numbers"),
    "pictures": (picture, "more than memory_budget"),
}


_READ = """
import re, sys
from pathlib import Path
from flowvae import UserError
from flowvae.data import load_dataset

def mebibytes(which):
    status = open("/proc/self/status").read()
    return int(re.search(which + r":\\s+(\\d+)", status)[1]) // 1024

import pyarrow.csv, pyarrow.parquet
from PIL import Image
for path in map(Path, sys.argv[2:]):
    Path("/proc/self/clear_refs").write_text("5")  # the highest begins again
    before = mebibytes("VmRSS")
    try:
        load_dataset(str(path), memory_budget=float(sys.argv[1]), image_size=(20_000, 20_000))
        said = "fine"
    except UserError as error:
        said = str(error)
    assert "\\n" not in said
    print(path.name, mebibytes("VmHWM") - before, said, sep="\\t", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory as Linux tells it")
def test_no_file_takes_more_memory_than_the_budget(tmp_path):
    for name, (write, _) in BOMBS.items():
        write(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(BUDGET), *(str(tmp_path / name) for name in BOMBS)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert [name for name, *_ in found] == list(BOMBS)
    for name, mebibytes, said in found:
        assert BOMBS[name][1] in said, (name, said)
        assert int(mebibytes) < 1024 * BUDGET + 20, (name, mebibytes, said)

"""IDX files, the format of MNIST, and the bundled MNIST itself."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from importlib import resources
from importlib.resources.abc import Traversable
from io import BytesIO
from pathlib import Path

import numpy as np

from flowvae.data.rows import ArrayFile, Stream, checked_bytes, gib, read_array
from flowvae.data.splits import SourceArrays
from flowvae.errors import UserError

__all__ = ["bundled_mnist", "idx_file", "idx_folder", "is_idx", "read_idx"]

# SHA-256 of the four uncompressed MNIST files.
_MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_TEST = ("*t10k-{kind}*", "*test-{kind}*")


def bundled_mnist(folder: Traversable | None = None) -> SourceArrays:
    """The four files of the package, or of another folder, checked by their digests."""
    folder = folder or resources.files("flowvae.data") / "mnist"
    arrays = []
    for file, expected in _MNIST.items():
        try:
            content = gzip.decompress((folder / f"{file}.gz").read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"bundled MNIST, {file}.gz: {error}; reinstall flowvae") from None
        got = hashlib.sha256(content).hexdigest()
        if got != expected:
            raise UserError(
                f"bundled MNIST, {file}: expected SHA-256 {expected}, got {got}; reinstall flowvae"
            )
        arrays.append(_read(BytesIO(content), file, None, len(content)))
    train, train_labels, test, test_labels = arrays
    return SourceArrays("mnist", {"train": train, "test": test}, _given(train_labels, test_labels))


def idx_folder(folder: Path, budget: int) -> SourceArrays:
    """A folder of IDX files named as MNIST's are."""

    def find(*patterns: str) -> Path | None:
        found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
        return found[0] if found else None

    train = find("*train-images*")
    test = find(*(pattern.format(kind="images") for pattern in _TEST))
    if train is None or test is None:
        raise UserError(
            "data: expected IDX files *train-images* and *t10k-images* or *test-images* "
            f"in {folder}"
        )
    labels = (
        find("*train-labels*"),
        find(*(pattern.format(kind="labels") for pattern in _TEST)),
    )
    parts = {"train": _open(train, budget), "test": _open(test, budget)}
    given = _given(*(None if path is None else read_idx(path, budget) for path in labels))
    return SourceArrays(str(folder.resolve()), parts, given)


def idx_file(path: Path, budget: int) -> SourceArrays:
    """One IDX file of data; its labels, if a file named ``…labels…`` lies beside ``…images…``."""
    name = path.name.replace("images-idx3", "labels-idx1")
    beside = path.with_name(name)
    labels = read_idx(beside, budget) if name != path.name and beside.is_file() else None
    return SourceArrays(
        str(path.resolve()),
        {"all": _open(path, budget)},
        {} if labels is None else {"all": labels},
    )


def is_idx(path: Path) -> bool:
    """Whether a file begins, or its name ends, as IDX files do."""
    name = path.name.removesuffix(".gz")
    if name.endswith(("-ubyte", ".idx")) or "-idx" in name:
        return True
    with path.open("rb") as file:
        start = file.read(4)
    return len(start) == 4 and start[:2] == b"\0\0" and start[2] in _IDX_TYPES


def read_idx(path: str | Path, budget: int | None = None) -> np.ndarray:
    """Read one IDX file, gzipped or not.

    Args:
        path: the file.
        budget: the most bytes that the array may have.

    Raises:
        UserError: the file is missing, larger than the budget, or its content is not what its
            header promises.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            if not packed:
                return _read(file, str(path), budget, path.stat().st_size)
            with gzip.open(file) as stream:
                return _read(stream, str(path), budget)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: corrupt gzip data: {error}") from None
    except OSError as error:
        raise UserError(f"data: cannot read {path}: {error.strerror or error}") from None


def _given(train: np.ndarray | None, test: np.ndarray | None) -> dict[str, np.ndarray]:
    found = {"train": train, "test": test}
    return {name: labels for name, labels in found.items() if labels is not None}


def _open(path: Path, budget: int) -> np.ndarray | ArrayFile:
    """The array in memory, or in its file if it is larger than ``budget`` bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        if size > budget and not packed:
            dtype, shape, offset = _read_header(file, str(path))
            _check_size(size, dtype, shape, offset, str(path))
            return ArrayFile(path.resolve(), offset, shape, dtype)
    return read_idx(path, budget)


def _read(stream: Stream, name: str, budget: int | None, size: int | None = None) -> np.ndarray:
    """An array of an open file; of ``size`` bytes, if that is known before it is read."""
    dtype, shape, offset = _read_header(stream, name)
    if size is not None:
        _check_size(size, dtype, shape, offset, name)
    nbytes = checked_bytes(shape, dtype, name)
    if budget is not None and nbytes > budget:
        raise UserError(
            f"data: {name} has {gib(nbytes)}, more than memory_budget; raise it"
            + ("" if size is not None else ", or decompress it")
        )
    found = read_array(stream, shape, dtype, name)
    if stream.read(1):
        raise UserError(f"{name}: expected {offset + nbytes} bytes for shape {shape}, got more")
    return found


def _read_header(stream: Stream, name: str) -> tuple[np.dtype, tuple[int, ...], int]:
    """IDX: 0, 0, type, number of dimensions; each dimension as big-endian int32; the values."""
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _IDX_TYPES:
        raise UserError(f"{name}: expected an IDX file, got one that begins {start!r}")
    dtype, ndim = np.dtype(_IDX_TYPES[start[2]]), start[3]
    sizes = stream.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise UserError(f"{name}: IDX header cut short, got {4 + len(sizes)} bytes")
    return dtype, tuple(int(n) for n in np.frombuffer(sizes, ">i4")), 4 + len(sizes)


def _check_size(size: int, dtype: np.dtype, shape: tuple[int, ...], offset: int, name: str) -> None:
    expected = offset + checked_bytes(shape, dtype, name)
    if size != expected:
        raise UserError(f"{name}: expected {expected} bytes for shape {shape}, got {size}")

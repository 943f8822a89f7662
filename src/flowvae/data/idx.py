"""IDX files, the format of MNIST, and the bundled MNIST itself."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from importlib import resources
from pathlib import Path

import numpy as np

from flowvae.data.found import Found
from flowvae.data.rows import ArrayFile
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
_TEST = ("*t10k-{kind}*", "*test-{kind}*")


def bundled_mnist() -> Found:
    folder = resources.files("flowvae.data") / "mnist"
    arrays = []
    for file, expected in _MNIST.items():
        content = _decompress((folder / f"{file}.gz").read_bytes(), f"bundled MNIST, {file}.gz")
        got = hashlib.sha256(content).hexdigest()
        if got != expected:
            raise UserError(
                f"bundled MNIST, {file}: expected SHA-256 {expected}, got {got}; reinstall flowvae"
            )
        arrays.append(_parse_idx(content, file))
    train, train_labels, test, test_labels = arrays
    return Found("mnist", {"train": train, "test": test}, _given(train_labels, test_labels))


def idx_folder(folder: Path, budget: int) -> Found:
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
    given = _given(*(None if path is None else read_idx(path) for path in labels))
    return Found(str(folder.resolve()), parts, given)


def idx_file(path: Path, budget: int) -> Found:
    """One IDX file of data; its labels, if a file named ``…labels…`` lies beside ``…images…``."""
    name = path.name.replace("images-idx3", "labels-idx1")
    beside = path.with_name(name)
    labels = read_idx(beside) if name != path.name and beside.is_file() else None
    return Found(
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


def read_idx(path: str | Path) -> np.ndarray:
    """Read one IDX file, gzipped or not.

    Raises:
        UserError: the file is missing, or its content is not what its header promises.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"data: cannot read {path}: {error.strerror or error}") from None
    return _parse_idx(_decompress(content, str(path)), str(path))


def _given(train: np.ndarray | None, test: np.ndarray | None) -> dict[str, np.ndarray]:
    found = {"train": train, "test": test}
    return {name: labels for name, labels in found.items() if labels is not None}


def _open(path: Path, budget: int) -> np.ndarray | ArrayFile:
    """The array in memory, or in its file if it is larger than ``budget`` bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(4 + 4 * 255)
    if size <= budget or start[:2] == b"\x1f\x8b":
        return read_idx(path)
    dtype, shape, offset = _parse_header(start, str(path))
    _check_size(size, dtype, shape, offset, str(path))
    return ArrayFile(path.resolve(), offset, shape, dtype)


def _decompress(content: bytes, name: str) -> bytes:
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name}: corrupt gzip data: {error}") from None


def _parse_idx(content: bytes, name: str) -> np.ndarray:
    dtype, shape, offset = _parse_header(content, name)
    _check_size(len(content), dtype, shape, offset, name)
    return np.frombuffer(content, dtype, offset=offset).reshape(shape)


def _parse_header(content: bytes, name: str) -> tuple[np.dtype, tuple[int, ...], int]:
    """IDX: 0, 0, type, number of dimensions; each dimension as big-endian int32; the values."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise UserError(f"{name}: expected an IDX file, got one that begins {content[:4]!r}")
    dtype, ndim = np.dtype(_IDX_TYPES[content[2]]), content[3]
    offset = 4 + 4 * ndim
    if len(content) < offset:
        raise UserError(f"{name}: IDX header cut short, got {len(content)} bytes")
    shape = tuple(int(n) for n in np.frombuffer(content, ">i4", ndim, offset=4))
    return dtype, shape, offset


def _check_size(size: int, dtype: np.dtype, shape: tuple[int, ...], offset: int, name: str) -> None:
    expected = offset + math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or size != expected:
        raise UserError(f"{name}: expected {expected} bytes for shape {shape}, got {size}")

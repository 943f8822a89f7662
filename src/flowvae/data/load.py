"""From what ``--data`` names to a :class:`Dataset`."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from importlib import resources
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from flowvae.data.dataset import Binarization, Dataset, binarize
from flowvae.errors import UserError

__all__ = ["load_dataset", "read_idx"]

# SHA-256 of the four uncompressed MNIST files.
_MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def load_dataset(
    name: str = "mnist",
    binarization: Binarization = "none",
    test_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Load data by name or path.

    Args:
        name: ``"mnist"``, bundled with the package; a folder of IDX files named as MNIST's are;
            a ``.npz`` with ``x_train`` and ``x_test`` (and labels ``y_train``, ``y_test``), or
            with ``x`` (and ``y``) alone; a ``.npy`` of shape (N, ...).
        binarization: see :func:`binarize`.
        test_fraction: share held out where the data names no test set.
        seed: of that split.

    Raises:
        UserError: the data is missing, corrupt or outside [0, 1].

    Examples:
        >>> len(load_dataset("mnist").train), load_dataset("mnist").data_shape
        (60000, (28, 28))
    """
    path = Path(name).expanduser()
    if name == "mnist":
        dataset = _bundled_mnist()
    elif path.is_dir():
        dataset = _idx_folder(path)
    elif path.suffix in (".npy", ".npz") and path.is_file():
        dataset = _numpy_file(path, test_fraction, seed)
    elif path.exists():
        raise UserError(f"data: expected a folder of IDX files, a .npy or a .npz, got {name}")
    else:
        raise UserError(f"data: expected 'mnist' or a path that exists, got {name}")
    return binarize(dataset, binarization)


def _bundled_mnist() -> Dataset:
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
    return Dataset.from_arrays(train, test, train_labels, test_labels, name="mnist")


def _idx_folder(folder: Path) -> Dataset:
    def find(*patterns: str) -> np.ndarray | None:
        found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
        return read_idx(found[0]) if found else None

    train = find("*train-images*")
    test = find("*t10k-images*", "*test-images*")
    if train is None or test is None:
        raise UserError(
            "data: expected IDX files *train-images* and *t10k-images* or *test-images* "
            f"in {folder}"
        )
    train_labels = find("*train-labels*")
    test_labels = find("*t10k-labels*", "*test-labels*")
    return Dataset.from_arrays(train, test, train_labels, test_labels, name=str(folder.resolve()))


def _numpy_file(path: Path, test_fraction: float, seed: int) -> Dataset:
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"data: {path} is no readable NumPy file: {error}") from None
    name = str(path.resolve())
    if "x_train" in arrays and "x_test" in arrays:
        return Dataset.from_arrays(
            arrays["x_train"],
            arrays["x_test"],
            arrays.get("y_train"),
            arrays.get("y_test"),
            name=name,
        )
    if "x" not in arrays:
        raise UserError(
            f"data: expected arrays x_train and x_test, or x, in {path}, got {', '.join(arrays)}"
        )
    x, y = arrays["x"], arrays.get("y")
    if x.ndim < 2 or len(x) < 2:
        raise UserError(f"data: expected an array (N, ...) with N at least 2, got {x.shape}")
    if y is not None and y.shape != x.shape[:1]:
        raise UserError(f"data: expected {len(x)} labels y in {path}, got shape {y.shape}")
    order = np.random.default_rng(seed).permutation(len(x))
    num_test = min(max(1, round(test_fraction * len(x))), len(x) - 1)
    test, train = order[:num_test], order[num_test:]
    labels = (None, None) if y is None else (y[train], y[test])
    return Dataset.from_arrays(x[train], x[test], *labels, name=name)


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


def _decompress(content: bytes, name: str) -> bytes:
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name}: corrupt gzip data: {error}") from None


def _parse_idx(content: bytes, name: str) -> np.ndarray:
    """IDX: 0, 0, type, number of dimensions; each dimension as big-endian int32; the values."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise UserError(f"{name}: expected an IDX file, got one that begins {content[:4]!r}")
    dtype, ndim = np.dtype(_IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * ndim
    if len(content) < start:
        raise UserError(f"{name}: IDX header cut short, got {len(content)} bytes")
    shape = tuple(int(n) for n in np.frombuffer(content, ">i4", ndim, offset=4))
    expected = start + math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or len(content) != expected:
        raise UserError(f"{name}: expected {expected} bytes for shape {shape}, got {len(content)}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)

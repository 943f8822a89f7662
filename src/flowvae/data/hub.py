"""Hugging Face datasets by name, through their library."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from flowvae.data.columns import Column
from flowvae.data.dataset import Dataset
from flowvae.data.images import opened_picture, read_images
from flowvae.data.options import Options
from flowvae.data.splits import SPLITS, SourceArrays, split_dataset
from flowvae.data.table_files import arrow_dataset
from flowvae.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["hub_dataset"]


def hub_dataset(
    name: str,
    options: Options,
    columns: Sequence[Column] | None = None,
    condition: Sequence[Column] | None = None,
) -> Dataset:
    """``hf:NAME`` or ``hf:NAME:CONFIGURATION``: pictures if it has a column of them, else a table.

    Raises:
        UserError: the library is not installed, the network or the data set not there, or its
            columns are of no use.
    """
    wanted, _, configuration = name.removeprefix("hf:").partition(":")
    if not wanted:
        raise UserError(f"data: expected hf:NAME or hf:NAME:CONFIGURATION, got {name!r}")
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"data: {name} needs the library datasets, which is not installed; "
            "pip install 'flowvae[hub]'"
        ) from None
    try:
        loaded = datasets.load_dataset(wanted, configuration or None)
    except Exception as error:  # noqa: BLE001  the library and those beneath it raise of many kinds
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"data: cannot load {name} (the network is needed the first time): {reason}"
        ) from None
    parts = _parts(name, loaded)
    features = next(iter(parts.values())).features
    label = options.label_column or _only(features, "ClassLabel")
    names = getattr(features.get(label), "names", None) if label else None
    picture = _only(features, "Image")
    if picture is not None:
        found = _pictures(name, parts, picture, label, names, options)
        return split_dataset(
            found, options.test_fraction, options.validation_fraction, options.seed
        )
    tables = {part: each.with_format("arrow")[:] for part, each in parts.items()}
    return arrow_dataset(
        name, tables, options.model_copy(update={"label_column": label}), columns, condition, names
    )


def _parts(name: str, loaded: Any) -> Mapping[str, Any]:
    """Train, test and validation as the data names them, or ``all``."""
    if not hasattr(loaded, "keys"):
        return {"all": loaded}
    found = {split: loaded[split] for split in SPLITS if split in loaded}
    if "train" not in found:
        raise UserError(f"data: expected a split named train in {name}, got {', '.join(loaded)}")
    if "test" in found:
        return found
    # Without a test split of its own, its validation split is what it holds out.
    if "validation" in found:
        return {"train": found["train"], "test": found["validation"]}
    return {"all": found["train"]}


def _only(features: Any, kind: str) -> str | None:
    """The first column of this kind."""
    return next((key for key, value in features.items() if type(value).__name__ == kind), None)


def _pictures(
    name: str,
    parts: Mapping[str, Any],
    column: str,
    label: str | None,
    names: Sequence[str] | None,
    options: Options,
) -> SourceArrays:
    import datasets  # pyright: ignore[reportMissingImports]

    sources = [(part, row) for part, each in parts.items() for row in range(len(each))]
    # As files: the library would open them in any format that Pillow knows.
    packed = {
        part: each.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        for part, each in parts.items()
    }

    def called(source: tuple[str, int]) -> str:
        return f"{name}, {source[0]}, row {source[1]}"

    def opened(source: tuple[str, int]) -> Any:
        part, row = source
        value = packed[part][row][column]
        if value is None:
            raise UserError(f"data: expected a picture in every row, got none in {called(source)}")
        content = value["bytes"]
        file = value["path"] if content is None else BytesIO(content)
        return opened_picture(file, called(source))

    pixels = read_images(sources, opened, called, options.budget_bytes, options.image_size)
    arrays: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    start = 0
    for part, each in parts.items():
        arrays[part] = pixels[start : start + len(each)]
        start += len(each)
        if label is not None:
            if label not in each.features:
                raise UserError(
                    f"label_column: expected a column of {name}, {', '.join(each.features)}, "
                    f"got {label!r}"
                )
            labels[part] = np.asarray(each[label])
    return SourceArrays(name, arrays, labels, None if names is None else tuple(names))

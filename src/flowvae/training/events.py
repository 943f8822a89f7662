"""TensorBoard events, when TensorBoard is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["EventWriter"]


class EventWriter:
    """Writes an epoch's metrics as scalars such as ``elbo/train``.

    Without TensorBoard, or a folder, it writes nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._writer: Any = None
        if folder is not None and find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, row: dict[str, float]) -> None:
        if self._writer is None:
            return
        for name, value in row.items():
            split, _, term = name.partition("_")
            tag = f"{term}/{split}" if split in ("train", "test") else name
            if name != "epoch":
                self._writer.add_scalar(tag, value, int(row["epoch"]))
        self._writer.flush()

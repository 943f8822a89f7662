"""The numbers of a page in one block of bytes."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch

__all__ = ["Arrays"]

_TYPES = {"u1": np.uint8, "i4": np.int32, "f4": np.float32}


class Arrays:
    """Collects arrays; what is added gets a number, by which the page finds it.

    Examples:
        >>> import numpy as np
        >>> arrays = Arrays()
        >>> arrays.add(np.zeros(3)), arrays.add(np.zeros(5), "u1")
        (0, 1)
        >>> arrays.about[1]
        {'type': 'u1', 'offset': 12, 'length': 5}
    """

    def __init__(self) -> None:
        self.about: list[dict[str, Any]] = []
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, values: np.ndarray | torch.Tensor, kind: str = "f4") -> int:
        """Keep values as float32 (``f4``), int32 (``i4``) or uint8 (``u1``), row by row."""
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu().numpy()
        data = np.ascontiguousarray(values, dtype=np.dtype(_TYPES[kind]).newbyteorder("<"))
        content = data.tobytes()
        self.about.append({"type": kind, "offset": self._size, "length": data.size})
        padded = content + bytes(-len(content) % 4)  # a typed array starts at a multiple of 4
        self._parts.append(padded)
        self._size += len(padded)
        return len(self.about) - 1

    def add_values(self, values: torch.Tensor) -> int:
        """Data, as bytes where all are k/255, or as float32."""
        as_bytes = (values * 255).round()
        inside = bool(((values >= 0) & (values <= 1)).all())
        if inside and bool(((as_bytes / 255 - values).abs() < 1e-6).all()):
            return self.add(as_bytes, "u1")
        return self.add(values)

    def add_shown(self, values: torch.Tensor, span: tuple[float, float] | None) -> int:
        """What is only looked at: of images, whose values span a range, bytes are enough."""
        if span is None:
            return self.add(values)
        low, high = span
        part = ((values - low) / (high - low)).clamp(0, 1)
        return self.add((part * 255).round(), "u1")

    def base64(self) -> str:
        return base64.b64encode(b"".join(self._parts)).decode("ascii")

"""bfloat16 for matrix products, float32 for what is summed, multiplied and compared."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["at_least_float32", "products_in"]


def products_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Where matrix products and convolutions are computed in ``"bfloat16"``, or as they are."""
    if precision == "float32":
        return nullcontext()
    # No weight is used twice inside one context, and a CUDA graph must not keep casts.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """X itself, or in float32 if it is of half the width."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x

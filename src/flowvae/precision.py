"""bfloat16 for the networks' products, float32 for what is summed, multiplied and compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["at_least_float32", "network_products", "networks_in"]

_precision = ContextVar("precision", default="float32")


@contextmanager
def networks_in(precision: str) -> Iterator[None]:
    """Inside, encoders and decoders compute their products in ``"bfloat16"``, or as they are.

    Heads, flows and densities are computed in float32 all the same.
    """
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


def network_products(device: torch.device) -> AbstractContextManager[object]:
    """What :class:`flowvae.VAE` opens around the encoder, and around the decoder."""
    if _precision.get() == "float32":
        return nullcontext()
    # No weight is used twice inside one context, and a CUDA graph must not keep casts.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """X itself, or in float32 if it is of half the width."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x

"""A training state in one file: tensors in safetensors, numbers as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from flowvae.errors import UserError, first_complaint
from flowvae.files import write_bytes

__all__ = ["State", "read_checkpoint", "write_checkpoint"]

State = dict[str, torch.Tensor | int | float]

_ENTRY = "flowvae-checkpoint"


class _Header(BaseModel):
    """What stands in the header beside safetensors' own."""

    model_config = ConfigDict(strict=True)

    version: int
    numbers: dict[str, int | float]
    more: dict[str, Any]


def write_checkpoint(file: str | Path, state: Mapping[str, Any], **more: Any) -> None:
    """Write a state, whole or not at all, and wait until it is on the disk.

    Args:
        file: to write.
        state: name -> a tensor, an int or a float.
        **more: further values that JSON can hold.
    """
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    numbers = {name: value for name, value in state.items() if name not in tensors}
    header = {"version": 1, "numbers": numbers, "more": more}
    write_bytes(file, save(tensors, metadata={_ENTRY: json.dumps(header)}), durable=True)


def read_checkpoint(file: str | Path) -> tuple[State, dict[str, Any]]:
    """The inverse of :func:`write_checkpoint`. Nothing that the file says is executed.

    Raises:
        UserError: it is no checkpoint, or corrupt.
    """
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            header = _Header.model_validate_json((opened.metadata() or {}).get(_ENTRY, "{}"))
            if header.version != 1:
                raise ValueError(f"expected version 1, got {header.version}")
            # Copies: tensors that map the file would keep Windows from replacing it.
            state: State = {
                name: opened.get_tensor(name).clone()
                for name in opened.keys()  # noqa: SIM118
            }
    except ValidationError as error:
        reason = ": ".join(filter(None, first_complaint(error)))
        raise UserError(f"checkpoint: {file} is none of flowvae's, or corrupt: {reason}") from None
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"checkpoint: {file} is none of flowvae's, or corrupt: {error}") from None
    return {**state, **header.numbers}, header.more

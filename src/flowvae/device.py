"""Which device to use."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

from flowvae.errors import UserError
from flowvae.processes import process_count

__all__ = ["choose_device", "machine"]


def choose_device(name: str = "auto") -> torch.device:
    """``"auto"`` is what ``FLOWVAE_DEVICE`` names, else CUDA, else MPS, else the CPU.

    Of several processes each gets a CUDA device of its own.

    Raises:
        UserError: the device is not there, or not the name of one.
    """
    named = os.environ.get("FLOWVAE_DEVICE", "auto")
    if name == "auto" and named not in ("", "auto"):
        try:
            return choose_device(named)
        except UserError as error:
            raise UserError(f"FLOWVAE_DEVICE: {error}") from None
    if process_count() > 1 and torch.cuda.is_available() and name in ("auto", "cuda"):
        return _own_device()
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}") from None
    if process_count() > 1 and device.type != "cpu":
        raise UserError(f"device: expected auto, cpu or cuda with several processes, got {name}")
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise UserError(
                f"device: {name} asked for, but PyTorch {torch.__version__} finds "
                f"{found or 'no'} CUDA device{'s' if found > 1 else ''}; "
                "expected auto, cpu or a device that exists"
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device: mps asked for, but PyTorch finds no MPS device; use auto or cpu")
    return device


def _own_device() -> torch.device:
    number, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= found:
        raise UserError(
            f"device: expected at most {found} processes on a machine with {found} CUDA "
            f"device{'s' if found > 1 else ''}, got process {number + 1}; use --device cpu, or "
            f"torchrun --nproc-per-node {found}"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def machine() -> str:
    """The machine in a few words: processor and number of cores."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        model = found.group(1).strip() if found else model
    return f"{model}, {os.cpu_count()} cores"

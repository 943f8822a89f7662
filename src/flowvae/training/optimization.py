"""What an update consists of: Adam, clipping, the moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_
from torch.optim.swa_utils import get_ema_multi_avg_fn

from flowvae.config import TrainingSection

__all__ = ["build_adam", "clip_to_usual", "moving_average"]

# Of the running mean of the gradient's norm: the weight of a new one, and what it is at least.
_NORM_MEMORY, _SMALLEST_NORM = 0.01, 1e-30


def clip_to_usual(
    parameters: Sequence[Tensor], norm: Tensor, usual_norm: Tensor, ratio: float
) -> Tensor:
    """Clip the gradient to a multiple of its usual norm, and give the norm that it has then.

    A single gradient far larger than the root of Adam's second moment moves every parameter by up
    to 30 learning rates, over the steps in which the first moment forgets it.

    Args:
        parameters: whose gradient it is.
        norm: of the gradient, 0-d.
        usual_norm: (2,), the running mean of the norms as clipped, and how many it has seen; it is
            updated, unless the norm is not finite.
        ratio: the multiple.
    """
    usual, count = usual_norm
    largest = ratio * torch.where(count > 0, usual, norm).clamp(min=_SMALLEST_NORM)
    clip_grads_with_norm_(parameters, 1.0, norm / largest)
    clipped = torch.minimum(norm, largest)
    weight = (1 / (count + 1)).clamp(min=_NORM_MEMORY) * norm.isfinite()
    usual += weight * (clipped.nan_to_num(0.0, 0.0) - usual)
    count += norm.isfinite()
    return clipped


def moving_average(training: TrainingSection) -> Callable[..., None]:
    """θ̄ ← d θ̄ + (1 - d) θ, with d = min(decay, (1 + t)/(10 + t)) so that the start is forgotten."""

    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        t = int(count)
        get_ema_multi_avg_fn(min(training.averaging, (1 + t) / (10 + t)))(averaged, current, count)

    return update


def build_adam(
    parameters: Sequence[Tensor], training: TrainingSection, device: torch.device
) -> torch.optim.Adam:
    """Adam, fused; on CUDA so that a recorded graph can run it."""
    rate: float | Tensor = training.learning_rate
    on_cuda = device.type == "cuda"
    if on_cuda:  # a graph reads the rate from the device
        rate = torch.tensor(rate, device=device)
    return torch.optim.Adam(
        parameters, lr=rate, weight_decay=training.weight_decay, fused=True, capturable=on_cuda
    )

"""Learning rates that change with time."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from flowvae.config import TrainingSection

__all__ = ["build_schedule"]


def build_schedule(
    optimizer: Optimizer, training: TrainingSection, updates: int
) -> LRScheduler | None:
    """The schedule a configuration names, to be stepped after each of ``updates`` an epoch.

    ``cosine`` falls to zero at the last epoch's end, η_t = η/2 (1 + cos(π t / T)); ``step``
    multiplies by ``schedule_factor`` after every ``schedule_epochs``.

    Source: "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv 1608.03983, without its
    restarts.

    Examples:
        >>> import torch
        >>> from flowvae.config import TrainingSection
        >>> adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> training = TrainingSection(schedule="cosine", epochs=2)
        >>> schedule = build_schedule(adam, training, updates=5)
        >>> for _ in range(5):
        ...     adam.step()
        ...     schedule.step()
        >>> round(adam.param_groups[0]["lr"], 6)
        0.5
    """
    if training.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=max(1, training.epochs * updates))
    if training.schedule == "step":
        every = max(1, training.schedule_epochs * updates)
        return StepLR(optimizer, every, training.schedule_factor)
    return None

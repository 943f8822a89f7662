"""Learning rates that change with time."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, StepLR

from flowvae.config import TrainingSection

__all__ = ["build_schedule", "continue_schedule"]

_RISING, _START = 0.1, 1 / 25  # share of all updates; part of the rate


def build_schedule(
    optimizer: Optimizer, training: TrainingSection, updates: int
) -> LRScheduler | None:
    """The schedule a configuration names, to be stepped after each of ``updates`` an epoch.

    ``cosine`` falls to zero at the last epoch's end, η_t = η/2 (1 + cos(π t / T)); ``one_cycle``
    rises from η/25 to η over the first tenth of all updates, along a cosine, and then falls to
    zero along another; ``step`` multiplies by ``schedule_factor`` after every ``schedule_epochs``.

    Sources: "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv 1608.03983, without its
    restarts; "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
    Rates", arXiv 1708.07120.

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
    T = max(1, training.epochs * updates)
    if training.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=T)
    if training.schedule == "one_cycle":
        return LambdaLR(optimizer, lambda t: _one_cycle(t, T))
    if training.schedule == "step":
        every = max(1, training.schedule_epochs * updates)
        return StepLR(optimizer, every, training.schedule_factor)
    return None


def _one_cycle(t: int, T: int) -> float:
    """The factor after t of T updates; PyTorch's OneCycleLR raises where training goes on."""
    rising = max(1, round(_RISING * T))
    if t < rising:
        return _START + (1 - _START) * (1 - math.cos(math.pi * t / rising)) / 2
    return (1 + math.cos(math.pi * min(1.0, (t - rising) / max(1, T - rising)))) / 2


def continue_schedule(schedule: LRScheduler, updates: int, same: bool) -> None:
    """Go on after so many updates, of a plan with the ``same`` number of them in all or another.

    The optimizer has the rate that it had there. In another plan it is what that plan would have.
    """
    schedule.last_epoch = updates
    if not same:
        if isinstance(schedule, CosineAnnealingLR):
            rates = schedule._get_closed_form_lr()
        elif isinstance(schedule, LambdaLR):
            pairs = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            rates = [base * factor(updates) for base, factor in pairs]
        else:
            rates = [float(group["lr"]) for group in schedule.optimizer.param_groups]
        for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
    schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]

"""Learning rates that change with time."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from flowvae.config import TrainingSection
from flowvae.training.schedules import build_schedule

EPOCHS, UPDATES, RATE = 4, 25, 0.2


def rates(schedule: str, count: int, **settings) -> list[float]:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=RATE)
    training = TrainingSection(schedule=schedule, epochs=EPOCHS, learning_rate=RATE, **settings)
    built = build_schedule(optimizer, training, UPDATES)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if built is not None:
            built.step()
    return found


def test_each_schedule_by_its_formula():
    T = EPOCHS * UPDATES
    assert rates("constant", T) == [RATE] * T
    cosine = [RATE * (1 + math.cos(math.pi * t / T)) / 2 for t in range(T)]
    assert rates("cosine", T) == pytest.approx(cosine)
    steps = [RATE * 0.5 ** (t // UPDATES) for t in range(T)]
    assert rates("step", T, schedule_epochs=1, schedule_factor=0.5) == pytest.approx(steps)


def test_one_cycle_is_that_of_pytorch_and_stays_at_zero_past_its_end():
    T = EPOCHS * UPDATES
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=RATE)
    # Its highest rate is at pct_start * total_steps - 1, its lowest at the last step.
    theirs = OneCycleLR(
        optimizer, RATE, total_steps=T + 1, pct_start=11 / (T + 1), final_div_factor=1e12
    )
    expected = []
    for _ in range(T + 1):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) <= T:
            theirs.step()
    found = rates("one_cycle", T + 30)
    assert found[: T + 1] == pytest.approx(expected, abs=1e-9)
    assert max(found) == pytest.approx(RATE)
    assert found[T:] == pytest.approx([0.0] * 30, abs=1e-12)

"""What a person sees while a model trains."""

from __future__ import annotations

import pytest
import torch

from flowvae import progress
from flowvae.config import resolve_config
from flowvae.data import Column, Dataset, Split
from flowvae.data.summary import conditions_and_gaps, summary

ROW = {
    "epoch": 2.0,
    "train_elbo": -3.0,
    "train_log_likelihood": -2.0,
    "train_kl": 1.0,
    "train_log_prior": -1.0,
    "train_log_base": 0.0,
    "train_ladj": 0.0,
    "test_elbo": -4.0,
}


@pytest.fixture
def shown(small_data, tmp_path, monkeypatch):
    """Progress of three epochs of ten updates, of which each takes a second."""
    size = -(-len(small_data.train) // 10)
    clock = iter(range(1000))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(clock)))
    config = resolve_config(epochs=3, batch_size=size)
    with progress.Progress(config, small_data, tmp_path, False) as started:
        yield started


def test_an_epoch_of_which_no_update_was_left(shown, capsys):
    """A process may be killed between an epoch's last update and its figures."""
    shown.goes_on_at(1, 10)
    shown.epoch(ROW)
    said = capsys.readouterr().err
    assert "epoch   2/3" in said
    assert "no update was left of it" in said


def test_the_time_left_is_that_of_what_is_left(shown, capsys):
    shown.goes_on_at(1, 4)
    for _ in range(6):
        shown.step(2, None)
    shown.epoch(ROW)
    # Six updates took seven seconds; of thirty ten are left: 11.7 seconds.
    assert "1 steps/s · 0:12 left" in capsys.readouterr().err


def test_conditions_and_gaps_are_told(tmp_path, capsys):
    """By counts that are made here: 4 of 10 labelled, 6 of 60 values missing."""
    columns = (Column("kind", "categorical", ("cat", "dog")),)
    values = torch.rand(10, 4)
    values[:6, 1] = torch.nan
    condition = torch.eye(2)[torch.arange(10) % 2]
    condition[4:] = torch.nan
    train = Split(values, condition=condition)
    test = Split(torch.rand(5, 4), condition=torch.eye(2)[torch.zeros(5, dtype=torch.long)])
    data = Dataset("some", train, test, (4,), condition=columns)
    told = ["conditioned on kind (2 classes)", "4 of 10 train data labelled"]
    told.append("10.0% of the values missing")
    assert conditions_and_gaps(data) == told
    assert f"beside       {'; '.join(told)}" in summary(data)
    config = resolve_config(epochs=3, batch_size=5, objective="m2", condition=("labels",))
    with progress.Progress(config, data, tmp_path, False) as started:
        started.epoch({**ROW, "train_accuracy": 0.925, "test_accuracy": 0.5})
    said = capsys.readouterr().err
    assert all(text in said for text in told)
    assert "classified train 92.5%, test 50.0%" in said


def test_of_other_data_there_is_nothing_to_tell(small_data):
    assert conditions_and_gaps(small_data) == []
    assert "beside" not in summary(small_data)

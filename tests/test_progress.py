"""What a person sees while a model trains."""

from __future__ import annotations

import pytest

from flowvae import progress
from flowvae.config import resolve_config

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

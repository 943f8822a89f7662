"""Signals that ask training to stop."""

from __future__ import annotations

import signal
import time

import pytest

from flowvae.training.stopping import Stopping


def test_a_second_signal_interrupts_at_once(monkeypatch):
    now = time.monotonic()
    before = signal.getsignal(signal.SIGINT)
    with Stopping() as stopping:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # within a second: the launcher passed it on
        assert stopping.agree()
        monkeypatch.setattr(time, "monotonic", lambda: now + 2)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stopping.stop()
    assert signal.getsignal(signal.SIGINT) == before

"""Signals that ask training to stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from flowvae.training.stopping import Stopping


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """A suite that runs in the background of a shell ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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

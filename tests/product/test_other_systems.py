"""What Windows and macOS do differently, where it can be seen on any system."""

from __future__ import annotations

import errno
import io
import sys
from pathlib import Path

import pytest
import torch

import flowvae
from flowvae import UserError, console
from flowvae.cli import main
from flowvae.device import choose_device
from flowvae.training.checkpoint import read_checkpoint, write_checkpoint


@pytest.mark.skipif(sys.platform != "linux", reason="reads what is mapped as Linux tells it")
def test_what_was_read_is_not_kept_open(run, tmp_path):
    """Windows replaces no file of which a part is mapped into memory."""
    file = tmp_path / "checkpoint.safetensors"
    write_checkpoint(file, {"x": torch.arange(100_000)})
    state, _ = read_checkpoint(file)
    model = flowvae.load(run.path)
    mapped = Path("/proc/self/maps").read_text()
    assert "libtorch" in mapped
    assert str(file) not in mapped
    assert str(run.path) not in mapped
    assert torch.equal(torch.as_tensor(state["x"]), torch.arange(100_000))
    assert model.latent_dim == 2


class Pipe(io.StringIO):
    """One whose reader has gone, as a system tells it."""

    def __init__(self, number: int, file: io.IOBase) -> None:
        super().__init__()
        self._number, self._file = number, file

    def write(self, text: str) -> int:
        raise OSError(self._number, "nobody reads this")

    def fileno(self) -> int:
        return self._file.fileno()


@pytest.mark.parametrize(
    ("number", "windows", "heard"),
    [(errno.EPIPE, False, True), (errno.EINVAL, True, True), (errno.EINVAL, False, False)],
)
def test_a_pipe_without_a_reader(number, windows, heard, monkeypatch, tmp_path):
    monkeypatch.setattr(console, "_READER_GONE", (errno.EINVAL,) if windows else ())
    with (tmp_path / "stream").open("w") as file:
        output = console._Output(Pipe(number, file))
        if heard:
            assert output.write("text") == 4
        else:
            with pytest.raises(OSError, match="nobody reads this"):
                output.write("text")


def test_auto_is_the_device_that_the_environment_names(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("mps")
    monkeypatch.setenv("FLOWVAE_DEVICE", "cpu")
    assert choose_device("auto") == torch.device("cpu")
    assert choose_device("mps") == torch.device("mps")
    for nothing in ("", "auto"):
        monkeypatch.setenv("FLOWVAE_DEVICE", nothing)
        assert choose_device("auto") == torch.device("mps")
    monkeypatch.setenv("FLOWVAE_DEVICE", "tpu9")
    with pytest.raises(UserError, match="^FLOWVAE_DEVICE: device: expected auto, cpu.* got 'tpu9'"):
        choose_device("auto")
    with pytest.raises(SystemExit) as stop:
        main(["train", "--out", str(tmp_path / "run"), "--quiet"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()

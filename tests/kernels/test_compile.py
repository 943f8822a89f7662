"""Compiled kernels: kept for the next process, compiled anew when a source has changed, forked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flowvae

pytest.importorskip("numba")


def test_kernels_are_compiled_once_and_cached(tmp_path):
    """A second process compiles nothing: numba's cache has every kernel it used."""
    code = """
import torch, sys
from flowvae.flows import planar_flow
x = [torch.randn(*s, requires_grad=True) for s in ((5, 2), (5, 3, 2), (5, 3, 2), (5, 3))]
sum(o.sum() for o in planar_flow(*x)).backward()
from flowvae.kernels.planar import cpu
hits = [sum(f.stats.cache_hits.values()) for f in (cpu.forward, cpu.backward)]
misses = [sum(f.stats.cache_misses.values()) for f in (cpu.forward, cpu.backward)]
print(hits, misses)
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    shown = [
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            env=environment,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert shown == ["[0, 0] [1, 1]", "[1, 1] [0, 0]"]


def test_an_edited_source_is_compiled_anew(tmp_path):
    """Though it stands in another file than the kernel that it is compiled into."""
    package = tmp_path / "flowvae"
    shutil.copytree(Path(flowvae.__file__).parent, package, ignore=_WITHOUT)
    code = (
        "import torch; from flowvae.flows import planar_flow as f\n"
        "x = [torch.full(s, 0.5) for s in ((1, 2), (1, 1, 2), (1, 1, 2), (1, 1))]\n"
        "print(f(*x)[0][0, 0].item())"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    source = package / "kernels" / "math.py"
    stamp = source.stat()
    text = source.read_text()
    assert text.count("return select(a < 0.0, -t, t), 4.0 * e * q * q") == 1
    text = text.replace(
        "return select(a < 0.0, -t, t), 4.0", "return select(a < 0.0, -t, 0.0 * t), 4.0"
    )
    source.write_text(text)
    os.utime(source, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(first.stdout) != 0.5
    assert float(again.stdout) == 0.5  # tanh is 0 now


def test_without_a_home_nothing_is_written_where_one_stands(tmp_path, monkeypatch):
    from flowvae.kernels import compile as compiling

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compiling, "_HERE", tmp_path / "file")  # as if it were read-only
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(UserWarning, match="compiled kernels cannot be kept"):
        assert compiling._folder.__wrapped__() is None
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


_WITHOUT = shutil.ignore_patterns("__pycache__", "mnist")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_can_use_the_kernels():
    code = """
import os, torch
from flowvae.flows import planar_flow
torch.set_num_threads(4)
x = [torch.randn(*s) for s in ((2000, 40), (2000, 16, 40), (2000, 16, 40), (2000, 16))]
expected = planar_flow(*x)[0]
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(planar_flow(*x)[0], expected) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)

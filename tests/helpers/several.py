"""Several processes as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def start_together(count: int, command: Sequence[Any], **options: Any) -> list[subprocess.Popen]:
    """The processes of ``python command`` as one group, numbered from 0."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
    }
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={**shared, "RANK": str(number), "LOCAL_RANK": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        for number in range(count)
    ]


def ended(processes: Sequence[subprocess.Popen], timeout: float = 300) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    found = []
    try:
        for process in processes:
            _, errors = process.communicate(timeout=timeout)
            found.append((process.returncode, errors))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return found


def run_together(count: int, function: str, *arguments: Any) -> None:
    """Call ``module:function`` with these arguments, written out by repr, in each process."""
    module, _, name = function.partition(":")
    call = f"from {module} import {name}; {name}({', '.join(map(repr, arguments))})"
    for code, errors in ended(start_together(count, ["-c", call])):
        assert code == 0, errors

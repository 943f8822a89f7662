"""No kernel touches memory that is not its own: freed, or past the end of an array."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("numba")


HELPERS = Path(__file__).parents[1] / "helpers"


KERNELS = Path(__file__).parents[2] / "src/flowvae/kernels"


# glibc maps every block of a page or more on its own, unmaps it when it is freed, and fills what is
# smaller with rubbish.
UNMAPPED = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4096:glibc.malloc.trim_threshold=4096",
    "MALLOC_PERTURB_": "165",
}


linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")


def in_a_child(script: str, *arguments: str, **environment: str) -> str:
    found = subprocess.run(
        [sys.executable, str(HELPERS / script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, f"{script} ended with {found.returncode}: {found.stderr[-2000:]}"
    assert found.stdout.endswith("done\n")
    return found.stdout


def numbers(output: str) -> list[list[float]]:
    lines = [line.split() for line in output.splitlines()]
    return [[float(word) for word in line if "e+" in word or "e-" in word] for line in lines]


@linux
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("repeats", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_public_calls_work_on_no_freed_memory(threads, repeats):
    arguments = (str(repeats), str(threads))
    hard = numbers(in_a_child("unmapped_memory.py", *arguments, **UNMAPPED))
    usual = numbers(in_a_child("unmapped_memory.py", *arguments))
    assert len(hard) == len(usual)
    for mine, other in zip(hard, usual, strict=True):
        assert mine == pytest.approx(other, rel=1e-6, abs=1e-6)


@linux
@pytest.mark.parametrize("every", ["13", pytest.param("1", marks=pytest.mark.slow)])
def test_kernels_keep_between_guard_pages(every):
    in_a_child("guard_pages.py", every)


def addresses() -> Iterator[tuple[str, ast.FunctionDef, ast.expr]]:
    """File, function and whose address is taken there, in all compiled code."""
    for path in sorted(KERNELS.rglob("*.py")):
        if path.name in ("cpu_launch.py", "threads.py", "memory.py"):
            continue  # plain Python, which keeps what a name refers to
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Attribute) and node.attr in ("ctypes", "data_ptr"):
                        yield path.name, function, node.value


def test_an_address_is_taken_of_an_argument_only():
    """numba frees a local array after the last use of its name, whoever has its address."""
    found = list(addresses())
    assert found
    for file, function, owner in found:
        arguments = {argument.arg for argument in function.args.args}
        assert isinstance(owner, ast.Name), f"{file}: {ast.unparse(owner)}"
        assert owner.id in arguments, (
            f"{file}: {function.name} takes the address of {owner.id}, its own"
        )

"""How the sources lie: no circle of imports, no long file, and what must stay light does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


SOURCES = ROOT / "src"


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports() -> dict[str, set[str]]:
    """Module -> the modules of ours that it names at its top, for types too."""
    modules = {module_of(path): path for path in SOURCES.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        nodes: list[ast.stmt] = []
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            nodes += node.body if isinstance(node, ast.If) else [node]
        found[name] = set()
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                below = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= (below & set(modules)) or {node.module}
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & set(modules)
    return found


def test_no_module_imports_itself_in_the_end():
    graph, done = imports(), set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_no_file_is_long():
    files = [*SOURCES.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *ROOT.glob("benchmarks/*.py")]
    long = {f.name for f in files if len(f.read_text(encoding="utf-8").splitlines()) > 400}
    assert not long


def test_the_general_part_of_the_kernels_knows_no_operator():
    general = {
        name: others
        for name, others in imports().items()
        if name.startswith("flowvae.kernels.") and ".planar" not in name
    }
    assert len(general) >= 5
    for name, others in general.items():
        assert all(other.startswith("flowvae.kernels.") for other in others), name
        assert not any(".planar" in other for other in others), name


@pytest.mark.parametrize("module", ["flowvae", "flowvae.config", "flowvae.registry", "flowvae.cli"])
def test_what_help_needs_imports_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

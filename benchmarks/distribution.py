"""What the wheel and the sdist hold, and how large they are.

    python -m benchmarks.distribution [DIST] [--write] [--tag v0.2.0]

Looks at the archives that ``make dist`` left in DIST: a wheel and an sdist of one version, with all
that an installation needs, and nothing that tests or caches left behind. Ends with exit code 1 and
a line for each thing that is wrong. ``--write`` puts the sizes into ``docs/benchmarks.md``;
``--tag`` sees that the version, the changelog and ``CITATION.cff`` are those of the release.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import re
import sys
import tarfile
from datetime import date
from email import message_from_bytes
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import flowvae
from benchmarks.report import replace_between

__all__ = ["complaints", "digests", "members", "only_pair", "sizes", "unready"]

ROOT = Path(__file__).parents[1]
_IMAGES, _LABELS = 47_040_016, 60_008  # bytes of MNIST's training data, unpacked
_MNIST = "flowvae/data/mnist"
_FOLDERS = {"flowvae", f"flowvae-{flowvae.__version__}.dist-info"}  # a wheel has no other
_SOURCES = (
    *("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE"),
    *("PKG-INFO", "Makefile", "conftest.py", "constraints.txt", "mkdocs.yml", "docs/index.md"),
    *("tests/conftest.py", "benchmarks/report.py", "examples/anomaly.py", "src/flowvae/py.typed"),
)
_LEFTOVERS = {
    *("__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", ".venv", ".git"),
    *("runs", "site", "dist", "build", "wheels", ".lock"),
}
_ALLOWED = "tests/helpers/runs"  # runs of earlier versions, which the suite opens


def only_pair(folder: Path) -> tuple[Path, Path]:
    """The wheel and the sdist in a folder.

    Raises:
        SystemExit: there is not one of each.
    """
    found = [sorted(folder.glob(pattern)) for pattern in ("*.whl", "*.tar.gz")]
    if [len(each) for each in found] != [1, 1]:
        names = ", ".join(path.name for each in found for path in each) or "neither"
        raise SystemExit(f"{folder}: expected one wheel and one sdist, got {names}")
    return found[0][0], found[1][0]


def members(archive: Path) -> dict[str, bytes]:
    """Name -> content of every file; an sdist's outer folder is left out of the names."""
    if archive.suffix == ".whl":
        with ZipFile(archive) as opened:
            return {name: opened.read(name) for name in opened.namelist()}
    found = {}
    with tarfile.open(archive) as opened:
        for member in opened:
            if (file := opened.extractfile(member)) is not None:
                found[member.name.partition("/")[2]] = file.read()
    return found


def complaints(wheel: Path, sdist: Path) -> list[str]:
    """What is wrong with them, a line each."""
    version = flowvae.__version__
    found = [
        f"{path.name}: expected version {version}"
        for path in (wheel, sdist)
        if not path.name.startswith(f"flowvae-{version}")
    ]
    inside, source = members(wheel), members(sdist)
    found += [f"{wheel.name}: {line}" for line in _of_the_wheel(inside, version)]
    found += [f"{sdist.name}: lacks {name}" for name in _SOURCES if name not in source]
    for path, names in ((wheel, inside), (sdist, source)):
        found += [f"{path.name}: {name} is a leftover" for name in names if _is_leftover(name)]
    lost = {f"src/{name}" for name in inside if name.startswith("flowvae/")} - source.keys()
    return found + [f"{sdist.name}: lacks {name}, which the wheel has" for name in sorted(lost)]


def _of_the_wheel(inside: dict[str, bytes], version: str) -> list[str]:
    here = ROOT / "src"
    expected = {
        path.relative_to(here).as_posix(): path
        for path in (here / "flowvae").rglob("*")
        if path.is_file() and not _is_leftover(path.relative_to(here).as_posix())
    }
    about = f"flowvae-{version}.dist-info"
    licences = ["LICENSE", f"src/{_MNIST}/LICENSE"]
    needed = [*expected, f"{about}/entry_points.txt", *(f"{about}/licenses/{x}" for x in licences)]
    found = [f"lacks {name}" for name in needed if name not in inside]
    found += [
        f"{name} is not as in src"
        for name, path in expected.items()
        if name in inside and inside[name] != path.read_bytes()
    ]
    found += [f"{name} is of no use" for name in inside if name.split("/")[0] not in _FOLDERS]
    for part, size in (("images-idx3", _IMAGES), ("labels-idx1", _LABELS)):
        packed = inside.get(f"{_MNIST}/train-{part}-ubyte.gz")
        if packed is not None and len(gzip.decompress(packed)) != size:
            found.append(f"MNIST's training {part.partition('-')[0]} are not whole")
    metadata = message_from_bytes(inside.get(f"{about}/METADATA", b""))
    if metadata["Version"] != version or not metadata.get_payload():
        found.append("METADATA lacks the version or the description")
    return found


def _is_leftover(name: str) -> bool:
    path = PurePosixPath(name)
    parts = set(path.parts) - ({"runs"} if name.startswith(_ALLOWED) else set())
    return bool(parts & _LEFTOVERS) or path.suffix in (".pyc", ".nbi", ".nbc", ".orig", ".log")


def unready(tag: str, root: Path = ROOT) -> list[str]:
    """What keeps the repository from being released under this tag, a line each."""
    version, found = flowvae.__version__, []
    if tag != f"v{version}":
        found.append(f"tag: expected v{version}, got {tag}")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    section = rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$"
    if not re.search(section, changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md: expected a section '## {version} - YYYY-MM-DD', got none")
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    cited = re.findall(r"^version: (\S+)$", citation, re.MULTILINE)
    if cited != [version]:
        found.append(f"CITATION.cff: expected version {version}, got {', '.join(cited) or 'none'}")
    return found


def digests(archive: Path) -> dict[str, str]:
    """Name -> SHA-256 of the content, to compare two archives."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in members(archive).items()}


def sizes(wheel: Path, sdist: Path) -> str:
    """The table of the document."""
    lines = ["| file | size | of which MNIST | files |", "|---|---|---|---|"]
    for path in (wheel, sdist):
        held = members(path)
        mnist = sum(len(data) for name, data in held.items() if f"{_MNIST}/" in name)
        lines.append(f"| {path.name} | {_mb(path.stat().st_size)} | {_mb(mnist)} | {len(held)} |")
    return "\n".join([*lines, f"\nMade by `make dist`, {date.today()}."])


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dist", type=Path, nargs="?", default=ROOT / "dist")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--tag", help="of a release")
    options = parser.parse_args()
    pair = only_pair(options.dist)
    wrong = complaints(*pair) + (unready(options.tag) if options.tag else [])
    print("\n".join(wrong) or sizes(*pair))
    if wrong:
        sys.exit(1)
    if options.write:
        replace_between(ROOT / "docs" / "benchmarks.md", "distribution", sizes(*pair))


if __name__ == "__main__":
    main()

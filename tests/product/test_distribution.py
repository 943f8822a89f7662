"""The wheel and the sdist: what is in them, and that a folder with the wheel alone trains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import flowvae
from benchmarks.distribution import complaints, digests, only_pair, sizes, unready

ROOT = Path(__file__).parents[2]
slow = pytest.mark.slow


def python(*arguments: object, interpreter: object = sys.executable, cwd: Path = ROOT) -> str:
    """Standard output; nothing of the repository is on the path."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COVERAGE"))}
    done = subprocess.run(
        [str(interpreter), *map(str, arguments)],
        cwd=cwd,
        env={**outside, "PYTHONIOENCODING": "utf-8", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """The wheel is made from the sdist, as ``python -m build`` does it."""
    for needed in ("build", "hatchling"):
        pytest.importorskip(needed)
    folder = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--no-isolation", "--outdir", folder)
    return folder


@pytest.fixture(scope="module")
def alone(dist, tmp_path_factory) -> Path:
    """A Python that has the wheel, and what flowvae needs, but not the repository.

    A new environment would download PyTorch again. So this one gets the wheel without its
    dependencies, and a ``.pth`` with the place of those that this suite runs on. A ``.pth`` that
    lies in such a place is not read, so an editable installation of the repository stays out.
    """
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("environment")
    python("-m", "venv", "--without-pip", folder)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    interpreter = scripts / ("python.exe" if os.name == "nt" else "python")
    install = ("install", "--quiet", "--no-deps", "--no-index", only_pair(dist)[0])
    python("-m", "pip", "--python", interpreter, *install)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(python("-c", ask, interpreter=interpreter).strip())
    theirs = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (packages / "dependencies.pth").write_text("\n".join(theirs) + "\n", encoding="utf-8")
    return interpreter


@slow
def test_all_that_is_needed_is_there_and_nothing_else(dist):
    assert complaints(*only_pair(dist)) == []


@slow
def test_what_is_wrong_is_named(dist, tmp_path):
    wheel, sdist = only_pair(dist)
    damaged = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(damaged, "w") as new:
        for name in old.namelist():
            if name != "flowvae/py.typed":
                changed = b"#" if name == "flowvae/vae.py" else old.read(name)
                new.writestr(name, changed)
        new.writestr("flowvae/__pycache__/vae.cpython-311.pyc", b"")
        new.writestr("tests/test_vae.py", b"")
    found = [line.removeprefix(f"{wheel.name}: ") for line in complaints(damaged, sdist)]
    assert "lacks flowvae/py.typed" in found
    assert "flowvae/vae.py is not as in src" in found
    assert "tests/test_vae.py is of no use" in found
    assert "flowvae/__pycache__/vae.cpython-311.pyc is a leftover" in found


@slow
def test_the_sdist_makes_the_same_wheel_as_the_repository(dist, tmp_path):
    """Up to the times, which are fixed."""
    python("-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert digests(again) == digests(only_pair(dist)[0])


@slow
def test_the_description_is_one_that_an_index_can_show(dist):
    pytest.importorskip("twine")
    python("-m", "twine", "check", "--strict", *only_pair(dist))


@slow
def test_the_documents_tell_the_size(dist):
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    told = text.split("<!-- distribution -->")[1].split("<!-- /distribution -->")[0]
    number = re.compile(r"([\d.]+) MB")
    now = sizes(*only_pair(dist))
    pairs = zip(number.findall(told), number.findall(now), strict=True)
    assert all(abs(float(a) / float(b) - 1) < 0.1 for a, b in pairs), "run `make dist ARGS=--write`"


@slow
def test_the_wheel_alone_trains(alone, tmp_path):
    where = "import flowvae, sys; print(flowvae.__file__); sys.exit('torch' in sys.modules)"
    file = Path(python("-c", where, interpreter=alone, cwd=tmp_path).strip())
    assert ROOT not in file.parents
    assert file.is_relative_to(alone.parents[1])
    command = alone.with_name("flowvae.exe" if os.name == "nt" else "flowvae")

    def call(*arguments: object) -> str:
        return python(*arguments, interpreter=command, cwd=tmp_path)

    assert call("--version").strip() == f"flowvae, version {flowvae.__version__}"
    assert "planar" in call("presets")
    assert "(28, 28)" in call("data", "mnist")
    small = ("--hidden-dims", 16, "--batch-size", 1000, "--evaluation-samples", 2)
    small = (*small, "--latent-dim", 3, "--device", "cpu")  # no picture of posteriors
    assert "pseudo-ELBO" in call("train", "--epochs", 1, "--out", "run", *small)
    call("sample", "run", "--num", 4)
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "evaluation.json", "samples.png"} <= written
    kernels = list(file.parent.rglob("flowvae-kernels-*"))
    assert kernels, "the kernels of the wheel are compiled and kept beside it"


VERSION = flowvae.__version__


@pytest.mark.parametrize(
    ("tag", "changelog", "citation", "message"),
    [
        (f"v{VERSION}", f"## Unreleased\n\n## {VERSION} - 2026-11-29\n", VERSION, None),
        ("v9.9.9", f"## {VERSION} - 2026-11-29\n", VERSION, "tag: expected v"),
        (f"v{VERSION}", "## Unreleased\n", VERSION, "CHANGELOG.md: expected a section"),
        (f"v{VERSION}", f"## {VERSION} - soon\n", VERSION, "CHANGELOG.md: expected a section"),
        (f"v{VERSION}", f"## {VERSION} - 2026-11-29\n", "9.9.9", "CITATION.cff: expected version"),
    ],
)
def test_what_a_release_lacks_is_said(tag, changelog, citation, message, tmp_path):
    (tmp_path / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
    (tmp_path / "CITATION.cff").write_text(f"title: x\nversion: {citation}\n", encoding="utf-8")
    found = unready(tag, tmp_path)
    assert len(found) == (message is not None)
    assert message is None or found[0].startswith(message)


def test_the_version_is_one():
    """What is noted beside the code, whether a release is due or not."""
    assert not [line for line in unready(f"v{VERSION}", ROOT) if not line.startswith("CHANGELOG")]
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.findall(r"^## (.+)$", text, re.MULTILINE)[0]
    assert first == "Unreleased" or first.startswith(f"{VERSION} - ")

"""The pictures of ``docs/gallery.md``, each by the command that stands above it there.

    python -m benchmarks.gallery [--runs runs/presets] [--only NAME …]

The runs are those of ``make results``, of the first seed. They are copied first, so that they stay
as they are. Pictures are made smaller (256 colours, fewer pixels) and go to ``docs/images``; what
is known of each, to ``docs/results/gallery.json``. Then the page is written anew.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.report import replace_between
from flowvae.device import machine
from flowvae.files import write_bytes

__all__ = ["PICTURES", "Picture", "section"]

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "results" / "gallery.json"
_WIDEST = 1100  # pixels: about twice the width of a page
_RUNS = "runs/presets"


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Args:
        title: its heading.
        command: what makes it, in a folder with the runs under ``runs/presets``.
        made: the file that the command leaves.
        text: what can be seen, as Markdown.
    """

    title: str
    command: str
    made: str
    text: str

    @property
    def runs(self) -> list[str]:
        """The names of the runs it needs."""
        words = shlex.split(self.command)
        return [word.removeprefix(f"{_RUNS}/") for word in words if word.startswith(f"{_RUNS}/")]


_FIGURES = f"flowvae figures {_RUNS}/best-seed0"
PICTURES = {
    "samples": Picture(
        "Samples",
        f"flowvae sample {_RUNS}/best-seed0 --num 64 --out samples.png",
        "samples.png",
        "Decoder means at 64 draws of the prior. With two latent dimensions every digit has to lie "
        "in one plane, so some draws fall between two of them.",
    ),
    "reconstructions": Picture(
        "Reconstructions",
        f"flowvae reconstruct {_RUNS}/best-seed0 --num 16 --out reconstructions.png",
        "reconstructions.png",
        "The first 16 test images, each over its reconstruction from one draw of q(z|x).",
    ),
    "posterior": Picture(
        "Posteriors",
        _FIGURES,
        f"{_RUNS}/best-seed0/figures/posterior.png",
        "Four test images: the encoder's Gaussian, its density after each of the 16 flows, q "
        "refined for the image, and the true posterior on a grid. The "
        "[tutorial](tutorial.md#see-the-posterior) says how to read the panels.",
    ),
    "learning_curves": Picture(
        "Learning curves",
        _FIGURES,
        f"{_RUNS}/best-seed0/figures/learning_curves.png",
        "The ELBO and its terms, epoch by epoch, on training and test data.",
    ),
    "compare": Picture(
        "Runs beside each other",
        f"flowvae compare {_RUNS}/gaussian-seed0 {_RUNS}/planar-seed0 {_RUNS}/quick-seed0 "
        f"{_RUNS}/best-seed0 --out comparison",
        "comparison/compare.png",
        "Differences from the first run are paired by test image; "
        "[Evaluation](evaluation.md) says how.",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=ROOT / _RUNS)
    parser.add_argument("--only", nargs="+", choices=list(PICTURES), default=list(PICTURES))
    options = parser.parse_args()
    found = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done: set[str] = set()
        for key in options.only:
            picture = PICTURES[key]
            for run in picture.runs:
                _copy_run(options.runs / run, folder / _RUNS / run)
            if picture.command not in done:
                print(picture.command, flush=True)
                _call(picture.command, folder)
                done.add(picture.command)
            _shrink(folder / picture.made, _image(key))
            found[key] = _about(picture, options.runs)
    found = {key: found[key] for key in PICTURES if key in found}
    KEPT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    replace_between(ROOT / "docs" / "gallery.md", "gallery", section(found))


def _image(key: str) -> Path:
    return ROOT / "docs" / "images" / f"gallery-{key.replace('_', '-')}.png"


def _copy_run(source: Path, target: Path) -> None:
    if not (source / "model.safetensors").is_file():
        raise SystemExit(f"{source}: expected a finished run; `make results` makes it")
    if not target.exists():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint.*", "figures"))


def _call(command: str, folder: Path) -> None:
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-m", *shlex.split(command), "--device", "cpu"]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr.decode(errors="replace"))


def _shrink(source: Path, target: Path) -> None:
    """A palette of 256 colours, and fewer pixels where that makes the file smaller."""
    with Image.open(source) as opened:
        image = opened.convert("RGB")
    sizes = [image.size]
    if image.width > _WIDEST:  # enlarged images of digits grow by it: edges become ramps
        sizes.append((_WIDEST, round(image.height * _WIDEST / image.width)))
    contents = []
    for size in sizes:
        stream = io.BytesIO()
        resized = image.resize(size, Image.Resampling.LANCZOS)
        resized.quantize(256, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
        contents.append(stream.getvalue())
    write_bytes(target, min(contents, key=len))


def _about(picture: Picture, runs: Path) -> dict[str, Any]:
    trained = {}
    for run in picture.runs:
        environment = json.loads((runs / run / "environment.json").read_text(encoding="utf-8"))
        trained[run] = environment["started"][:10]
    return {
        "command": picture.command,
        "runs": trained,
        "date": str(date.today()),
        "machine": machine(),
        "torch": torch.__version__,
    }


def section(found: dict[str, dict[str, Any]]) -> str:
    """The page's pictures as Markdown, of what is known of each."""
    parts = []
    for key, about in found.items():
        picture = PICTURES[key]
        runs = ", ".join(f"{run} of {day}" for run, day in about["runs"].items())
        parts.append(
            f"## {picture.title}\n\n```sh\n{about['command']}\n```\n\n"
            f"![{picture.title}](images/{_image(key).name})\n\n{picture.text} "
            f"*Runs: {runs}. Drawn {about['date']}, {about['machine']}, torch {about['torch']}.*"
        )
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()

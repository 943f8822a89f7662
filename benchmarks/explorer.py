"""How fast the page of ``flowvae explore`` answers, in a headless Chromium without a GPU.

    python -m benchmarks.explorer RUN

Opens the page of a run with D = 2 and measures: until the plane is decoded; what a stroke of the
pen costs before it can be seen (encoder, flows, decoder, both planes and the map); from a choice
among the test images to numbers that have settled. Writes ``docs/results/explorer.json`` and
a paragraph of ``docs/explorer/index.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import flowvae
from benchmarks.report import replace_between
from flowvae.device import machine

ROOT = Path(__file__).parents[1]
_STROKES, _CHOICES = 60, 10
_ASKED = 1000 / 30  # milliseconds a frame

# One stroke after the other around the pad; each is drawn at once, not with the next frame.
_DRAW = """
(count) => {
  const page = window.flowvaeExplorer;
  const { width, height } = page.spec.shape;
  page.pad.clear();
  const place = (i) => [
    width * (0.5 + 0.3 * Math.cos(i / 9)), height * (0.5 + 0.3 * Math.sin(i / 9)),
  ];
  const found = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    page.pad.stroke(place(i), place(i + 1));
    page.posterior.draw();
    page.map.draw();
    found.push(performance.now() - start);
  }
  return found;
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    run = flowvae.open_run(parser.parse_args().run)
    with tempfile.TemporaryDirectory() as folder:
        page = flowvae.explore(run, out=Path(folder) / "page.html")
        found = {"run": run.path.name, **_measure(page.path), "machine": machine()}
        found["megabytes"] = page.path.stat().st_size / 1e6
    found["date"] = date.today().isoformat()
    file = ROOT / "docs" / "results" / "explorer.json"
    file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    replace_between(ROOT / "docs" / "explorer" / "index.md", "explorer", explorer_paragraph(found))


def _measure(file: Path) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        program = shutil.which("chromium")
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        begun = time.perf_counter()
        page.goto(file.resolve().as_uri())
        page.wait_for_selector("body[data-settled=true]", timeout=120_000)
        opened = time.perf_counter() - begun
        strokes = page.evaluate(_DRAW, _STROKES)
        choices = []
        for index in range(1, _CHOICES + 1):
            begun = time.perf_counter()
            page.click(f"#examples button >> nth={index}")
            page.wait_for_selector("body[data-settled=true]", timeout=120_000)
            choices.append(time.perf_counter() - begun)
        version = browser.version
        browser.close()
    strokes = strokes[_STROKES // 4 :]  # the first ones are compiled
    return {
        "browser": f"Chromium {version}, headless, without a GPU",
        "opened_seconds": opened,
        "stroke_milliseconds": statistics.median(strokes),
        "slow_stroke_milliseconds": statistics.quantiles(strokes, n=10)[-1],
        "settled_seconds": statistics.median(choices),
    }


def explorer_paragraph(found: dict[str, Any]) -> str:
    """What was measured, in a sentence each."""
    met = "met" if found["slow_stroke_milliseconds"] <= _ASKED else "missed"
    return (
        f"Of the page above, {found['megabytes']:.1f} MB: numbers have settled "
        f"{found['opened_seconds']:.1f} s after it is opened, and {found['settled_seconds']:.1f} s "
        "after another image is chosen. A stroke of the pen costs "
        f"{found['stroke_milliseconds']:.0f} ms (in nine of ten cases below "
        f"{found['slow_stroke_milliseconds']:.0f} ms) until all planes are drawn; for 30 frames a "
        f"second at most 33 ms are allowed ({met}). {found['date']}, {found['machine']}, "
        f"{found['browser']}. Made by `python -m benchmarks.explorer runs/presets/{found['run']}`."
    )


if __name__ == "__main__":
    main()

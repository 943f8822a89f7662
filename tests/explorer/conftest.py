"""A browser, and pages of small runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowvae
from flowvae.data import Dataset

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(_NAMES)} is installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def show(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page from its file; nothing may be reported, asked for or said in a dialog."""
    troubles: list[str] = []
    contexts = []

    def opened(file: Path, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 1200}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: troubles.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))
        own = file.resolve().as_uri()
        page.on("request", lambda asked: _foreign(asked.url, own, troubles))
        page.goto(own)
        page.wait_for_selector("body[data-ready=true]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not troubles


def _foreign(url: str, own: str, troubles: list[str]) -> None:
    if url != own and not url.startswith(("blob:", "data:")):
        troubles.append(f"request: {url}")


def images(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Soft images that two numbers make, in [0, 1]."""
    rng = np.random.default_rng(0)
    z, bases = rng.normal(size=(count, 2)), rng.normal(size=(2, *shape))
    return 1 / (1 + np.exp(-2 * np.tensordot(z, bases, 1)))


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., flowvae.Run]:
    """A short run on images of a shape, with three classes."""

    def trained(
        shape: tuple[int, ...] = (9, 7), scale: tuple[float, float] = (0.0, 1.0), **settings: Any
    ) -> flowvae.Run:
        low, high = scale
        pixels = low + (high - low) * np.round(255 * images(260, shape)) / 255
        labels = np.arange(260) % 3
        data = Dataset.from_arrays(pixels[:200], pixels[200:], labels[:200], labels[200:])
        options = {"epochs": 10, "hidden_dims": (24,), "learning_rate": 3e-3, **settings}
        return flowvae.train(
            dataset=data,
            out=tmp_path_factory.mktemp("run") / "run",
            evaluation_samples=4,
            progress=False,
            finish=False,
            **options,
        )

    return trained

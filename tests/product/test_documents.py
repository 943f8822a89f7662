"""The documents: links lead somewhere, Python runs, commands can be given."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import yaml

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Dataset
from tests.helpers.commands import check_script, check_span
from tests.helpers.documents import DOCUMENTS, ROOT, Block, anchors, blocks, links, prose

LANGUAGES = {"python", "sh", "bash", "yaml", ""}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings_that_exist(document):
    wrong = []
    for link in links(document):
        parts = urlsplit(link)
        if parts.scheme:
            # Nothing outside is asked: the form alone.
            good = parts.scheme == "https" and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc)
        else:
            path = DOCUMENTS[document]
            if parts.path:
                path = (path.parent / unquote(parts.path)).resolve()
            good = path.exists() and path.is_relative_to(ROOT)
            if good and parts.fragment:
                good = path.suffix == ".md" and parts.fragment in anchors(path)
        if not good:
            wrong.append(link)
    assert not wrong


def test_every_block_is_of_a_language_that_is_tested():
    assert not [
        f"{block.name}: {block.language}"
        for block in (each for each in blocks(*LANGUAGES, *_languages()))
        if block.language not in LANGUAGES
    ]


def _languages() -> set[str]:
    texts = (path.read_text(encoding="utf-8") for path in DOCUMENTS.values())
    return {name for text in texts for name in re.findall(r"^ *```(\S+)", text, re.M)}


# What the text around a block has explained before; `<!-- given: a, b -->` asks for it.
def _model(data: Dataset) -> flowvae.VAE:
    config = resolve_config(preset="planar", hidden_dims=(8,), num_flows=2)
    return flowvae.build_vae(config, data.data_shape).eval()


GIVEN: dict[str, Callable[[Dataset], Any]] = {
    "model": _model,
    "dataset": lambda data: data,
    "config": lambda _: resolve_config(preset="planar", hidden_dims=(8,), num_flows=2),
    "x": lambda data: data.test.values(slice(3)),
    "flowvae": lambda _: flowvae,
    "X": lambda _: np.random.default_rng(0).normal(size=(60, 4)),
}


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.name)
def test_python_runs(block: Block, run, small_data, data_file, tmp_path, monkeypatch):
    """On small data, with small networks, for an epoch."""
    if block.not_run:
        compile(block.text, block.name, "exec")
        pytest.skip(block.not_run)
    if "sklearn" in block.text:
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    _make_small(monkeypatch, data_file)
    namespace: dict[str, Any] = {"__name__": "document"}
    for name in block.given:
        if name.startswith("runs/"):
            shutil.copytree(run.path, tmp_path / name)
        else:
            given = {**GIVEN, "run": lambda _: run}
            assert name in given, f"{block.name}: expected one of {', '.join(given)}, got {name}"
            namespace[name] = given[name](small_data)
    lines = "\n" * block.line + block.text
    try:
        exec(compile(lines, ROOT / block.document, "exec"), namespace)  # noqa: S102  our own
    except NameError as error:
        pytest.fail(f"{block.name}: {error}; say <!-- given: NAME --> above the block")


def _make_small(monkeypatch: pytest.MonkeyPatch, data_file: Path) -> None:
    train, small = flowvae.train, {"data": str(data_file), "hidden_dims": (8,), "epochs": 1}

    def train_small(*arguments: Any, **settings: Any) -> flowvae.Run:
        settings |= small
        return train(*arguments, **settings, evaluation_samples=2, progress=False)

    monkeypatch.setattr(flowvae, "train", train_small, raising=False)
    monkeypatch.setattr(flowvae.figures, "save_all", lambda _: [])
    if find_spec("sklearn"):
        for name, value in (("epochs", 1), ("num_samples", 2)):
            for estimator in (flowvae.FlowVAE, flowvae.FlowVAEClassifier):
                monkeypatch.setitem(estimator.__init__.__kwdefaults__, name, value)


@pytest.mark.parametrize("block", blocks("sh", "bash"), ids=lambda block: block.name)
def test_commands_can_be_given(block: Block):
    if block.not_run:
        pytest.skip(block.not_run)
    assert check_script(block.text)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("flowvae trian", "expected one of evaluate, "),
        ("flowvae train --no-such-flag 3", "no_such_flag"),
        ("flowvae train --posterior gaussian --num-flows 3", "num_flows"),
        ("flowvae train --epochs x", "epochs"),
        ("flowvae train --resume RUN --seed 3", "no --resume"),
        ("flowvae presets nosuch", "nosuch"),
        ("torchrun --nproc-per-node 2 -m flowvae evaluate RUN --no", "--no"),
        ("make tea", "no target tea"),
        ('make train ARGS="--preset nosuch"', "nosuch"),
        ('pip install -e ".[nosuch]" && pytest', "no extra nosuch"),
        ("python -m benchmarks.presets --jobs 2 --tea", "has no --tea"),
        ("rm -r runs", "not run"),
    ],
)
def test_commands_that_cannot_be_given_are_found(script, message):
    with pytest.raises(AssertionError, match=message):
        check_script(f"make test  # good\n{script}")


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_commands_within_sentences_exist(document):
    spans = re.findall(r"`((?:flowvae|make|python -m|torchrun) [^`\n]+)`", prose(document))
    for span in spans:
        check_span(span.replace("\\|", "|"))


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.name)
def test_configurations_are_valid(block: Block, tmp_path):
    if block.not_run:
        yaml.safe_load(block.text)
        pytest.skip(block.not_run)
    file = tmp_path / "mine.yaml"
    file.write_text(block.text, encoding="utf-8")
    assert flowvae.load_config(file)

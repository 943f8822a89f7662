"""Model files whose condition a stranger has changed: one line, or a model that works."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Column
from flowvae.hub.card import card
from flowvae.runs import write_model
from tests.helpers.fuzzing import JUNK, check_command, damaged_value
from tests.product.test_fuzzing import check_all, rewritten

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")

LABEL = (Column("kind", "categorical", ("cat", "dog")),)
SEVERAL = (
    Column("age", "numeric", mean=40.0, scale=10.0),
    Column("sex", "binary", ("female", "male")),
)


def model_file(folder: Path, condition: Any, **settings: Any) -> Path:
    config = resolve_config(hidden_dims=(8,), num_flows=2, **settings)
    model = flowvae.build_vae(config, (6, 5), condition=condition)
    write_model(folder / "model.safetensors", model, config)
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "none": (None, {}),
        "classes": (LABEL, {"prior": "normal"}),
        "several": (SEVERAL, {"prior": "normal"}),
        "m2": (LABEL, {"objective": "m2"}),
        "missing": (LABEL, {"missing": "model"}),
    }
    make = tmp_path_factory.mktemp
    return {name: model_file(make(name), c, **settings) for name, (c, settings) in kinds.items()}


def test_headers(files, tmp_path):
    """Of every kind of model, the condition or anything else damaged."""
    kinds = list(files.values())

    def change(about: dict, random: Random) -> Any:
        if random.random() < 0.3:
            return damaged_value(about, random)
        return about | {"condition": damaged_value(about["condition"], random)}

    def make(n: int, random: Random) -> list[str]:
        target = tmp_path / "model.safetensors"
        rewritten(kinds[n % len(kinds)], target, lambda about: change(about, random))
        given = [[], ["--condition", "cat"], ["--condition", "age=30,sex=male"]][n % 3]
        return ["sample", str(target), "--num", "2", *given, "--out", str(tmp_path / "out.npz")]

    check_all(300, make, tmp_path / "out.npz")


CATEGORICAL = {"name": "kind", "kind": "categorical", "categories": ["cat", "dog"]}
BINARY = {"name": "a", "kind": "binary", "categories": ["no", "yes"]}
NUMERIC = {"name": "age", "kind": "numeric"}


@pytest.mark.parametrize(
    ("kind", "condition"),
    [
        *[("classes", wrong) for wrong in (3, "kind", {}, [3], [None], [{}], [[]])],
        ("classes", [CATEGORICAL, CATEGORICAL]),
        ("classes", None),
        ("classes", []),
        ("none", []),
        ("none", [CATEGORICAL]),
        ("classes", [{**CATEGORICAL, "categories": ["cat", "cat"]}]),
        ("classes", [{**CATEGORICAL, "categories": [str(n) for n in range(100_000)]}]),
        ("classes", [{**CATEGORICAL, "kind": "ordinal"}]),
        ("classes", [BINARY, BINARY]),
        ("several", [{**NUMERIC, "scale": 0.0}, BINARY]),
        ("several", [{**NUMERIC, "mean": float("nan")}, BINARY]),
        ("several", [{**NUMERIC, "mean": float("inf")}, BINARY]),
        ("several", [{**NUMERIC, "categories": ["a", "b"]}, BINARY]),
        ("m2", None),
        ("m2", [NUMERIC]),
        ("m2", [NUMERIC, BINARY]),
        ("missing", [{**CATEGORICAL, "categories": ["a", "b", "c"]}]),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_condition_that_is_none_is_one_line(kind, condition, files, tmp_path):
    target, out = tmp_path / "model.safetensors", tmp_path / "out.npz"
    rewritten(files[kind], target, lambda about: about | {"condition": condition})
    with pytest.raises(flowvae.UserError, match="no model of flowvae's|m2 needs classes"):
        flowvae.load(target)
    command = ["sample", str(target), "--num", "2", "--out", str(out)]
    limits = {"seconds": 5, "megabytes": 300}
    assert check_command(command, out, codes=(2,), **limits) is None


def test_what_a_class_is_called_stays_text_in_a_card(files, tmp_path):
    """Its name is anything: the card is Markdown, and its code runs as it is."""
    config = resolve_config()
    junk = [each for each in JUNK if isinstance(each, str) and each.strip("\x00")]
    for name in [*junk, 'a"b', "a'b", "```\n# evil", "a\\", "{y}", "<img src=x>"]:
        target = tmp_path / "model.safetensors"
        column = {**CATEGORICAL, "categories": [name, "dog"]}
        rewritten(files["classes"], target, lambda about, c=column: about | {"condition": [c]})
        model = flowvae.load(target)
        page = card(model, config, None, None, [], "me/x")
        fields, rest = page.split("## Use", 1)
        code, rest = rest.split("```python\n", 1)[1].split("\n```\n", 1)
        assert "\n# evil" not in page
        assert re.search(r"(?<!\\)<img", fields) is None
        assert rest.startswith("\nThe weights are safetensors")
        names = {"flowvae": flowvae}
        line = code.replace('flowvae.load("hf://me/x")', f"flowvae.load({str(target)!r})")
        exec(line, names)  # noqa: S102 - the card's own lines
        z = names["z"]
        assert isinstance(z, torch.Tensor)
        assert z.shape == (64, 2)

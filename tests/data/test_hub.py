"""Data sets of the Hugging Face hub, by a stand-in for its library."""

from __future__ import annotations

import io
import sys
import types
from typing import Any

import pytest
from PIL import Image

from flowvae import UserError
from flowvae.data import load_dataset
from tests.helpers.making import pixels


class FakeSet:
    """As much of ``datasets.Dataset`` as is used."""

    def __init__(self, features: dict[str, Any], columns: dict[str, list[Any]]) -> None:
        self.features, self.columns = features, columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            import pyarrow as pa

            return pa.table(self.columns)
        if isinstance(key, str):
            return self.columns[key]
        return {name: values[key] for name, values in self.columns.items()}

    def with_format(self, kind: str) -> FakeSet:
        assert kind == "arrow"
        return self

    def select_columns(self, names: list[str]) -> FakeSet:
        return FakeSet(self.features, {name: self.columns[name] for name in names})

    def cast_column(self, name: str, kind: Any) -> FakeSet:
        """Pictures as the library stores them."""
        assert (type(kind).__name__, kind.decode) == ("Image", False)
        return FakeSet(self.features, {name: [packed(each) for each in self.columns[name]]})


def packed(picture: Image.Image | bytes) -> dict[str, Any]:
    if isinstance(picture, bytes):
        return {"bytes": picture, "path": None}
    content = io.BytesIO()
    picture.save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


@pytest.fixture
def hub(monkeypatch):
    sets: dict[Any, Any] = {}

    def load(name, configuration):
        if (name, configuration) not in sets:
            raise ConnectionError(f"Couldn't reach '{name}'\non the Hub")
        return sets[name, configuration]

    module = types.ModuleType("datasets")
    module.load_dataset = load
    module.Image = lambda decode: feature("Image", decode=decode)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return sets


def feature(kind: str, **fields: Any) -> Any:
    return type(kind, (), fields)()


def test_hub_pictures(hub):
    def part(count: int) -> FakeSet:
        images = [Image.fromarray(image) for image in pixels(count, 5, 4, 3)]
        features = {"img": feature("Image"), "label": feature("ClassLabel", names=["cat", "dog"])}
        return FakeSet(features, {"img": images, "label": [k % 2 for k in range(count)]})

    hub["org/pets", None] = {"train": part(8), "test": part(3)}
    found = load_dataset("hf:org/pets")
    assert (found.data_shape, len(found.train), len(found.test)) == ((3, 5, 4), 8, 3)
    assert found.label_names == ("cat", "dog")
    assert found.test.labels is not None
    assert found.test.labels.tolist() == [0, 1, 0]
    picture = Image.fromarray(pixels(1, 5, 4, 3)[0])
    content = io.BytesIO()
    picture.save(content, "EPS")
    hub["org/eps", None] = FakeSet({"img": feature("Image")}, {"img": [content.getvalue()] * 3})
    with pytest.raises(UserError, match="hf:org/eps, all, row 0 is no readable picture"):
        load_dataset("hf:org/eps")
    hub["org/pets", "small"] = {"train": part(8), "validation": part(2)}
    assert len(load_dataset("hf:org/pets:small").test) == 2


def test_hub_tables(hub):
    pytest.importorskip("pyarrow")
    columns = {"a": [0.5, 1.5, 2.5, 9.0], "b": ["x", "y", "x", "y"], "kind": [0, 1, 2, 1]}
    features = {"a": feature("Value"), "b": feature("Value")}
    features["kind"] = feature("ClassLabel", names=["p", "q", "r"])
    hub["flat", None] = FakeSet(features, columns)
    found = load_dataset("hf:flat", test_fraction=0.25)
    assert [column.name for column in found.columns or ()] == ["a", "b"]
    assert found.label_names == ("p", "q", "r")
    assert len(found.train) == 3


def test_hub_errors_are_one_line(hub, monkeypatch):
    with pytest.raises(UserError, match="hf:none .*network is needed.*Couldn't reach") as error:
        load_dataset("hf:none")
    assert "\n" not in str(error.value)
    hub["odd", None] = {"all": None}
    with pytest.raises(UserError, match="expected a split named train in hf:odd, got all"):
        load_dataset("hf:odd")
    with pytest.raises(UserError, match="expected hf:NAME"):
        load_dataset("hf:")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'flowvae\[hub\]'"):
        load_dataset("hf:any")

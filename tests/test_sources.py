"""Where data comes from besides MNIST: pictures, Hugging Face; splits; what the numbers are."""

from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import flowvae
from flowvae import UserError
from flowvae.data import Dataset, binarize, load_dataset
from flowvae.data.splits import cut

TINY = {"memory_budget": 1e-7}  # about 100 bytes: everything stays in its file


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


# Splits


@given(
    count=st.integers(3, 400),
    test=st.floats(0.01, 0.99),
    validation=st.one_of(st.just(0.0), st.floats(0.01, 0.99)),
    seed=st.integers(0, 2**32),
)
def test_splits_are_a_partition_by_seed(count, test, validation, seed):
    chosen, record = cut({"all": count}, test, validation, seed)
    parts = {name: numbers for name, (_, numbers) in chosen.items()}
    assert set(parts) == {"train", "test"} | ({"validation"} if validation else set())
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(count))
    assert all(len(part) >= 1 for part in parts.values())
    assert {name: record[name]["count"] for name in parts} == {k: len(v) for k, v in parts.items()}
    again, same = cut({"all": count}, test, validation, seed)
    assert same == record
    assert all(np.array_equal(again[name][1], parts[name]) for name in parts)


def test_the_test_split_does_not_depend_on_validation():
    """So that figures of runs with and without early stopping can be compared."""
    with_, without = (cut({"all": 100}, 0.2, fraction, 5)[0] for fraction in (0.3, 0.0))
    assert np.array_equal(with_["test"][1], without["test"][1])


def test_validation_of_data_that_names_its_test_set():
    found = load_dataset("mnist", validation_fraction=0.05)
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 57_000,
        "validation": 3_000,
        "test": 10_000,
    }
    whole = load_dataset("mnist")
    assert whole.validation is None
    assert torch.equal(found.test.data, whole.test.data)
    both = torch.cat([found.train.data, found.validation.data])  # pyright: ignore
    assert torch.equal(both.long().sum(0), whole.train.data[:].long().sum(0))
    dynamic = binarize(found, "dynamic")
    assert dynamic.validation is not None
    assert dynamic.validation.is_binary()


def test_how_the_splits_were_made_is_recorded(tmp_path):
    np.save(tmp_path / "x.npy", pixels(40, 3, 4))
    run = flowvae.train(
        "original", data=str(tmp_path / "x.npy"), out=tmp_path / "run", validation_fraction=0.2,
        hidden_dims=(8,), epochs=1, finish=False, progress=False, seed=4,
    )  # fmt: skip
    about = json.loads((run.path / "environment.json").read_text())["data"]
    assert (about["train"], about["validation"], about["test"]) == (29, 7, 4)
    assert about["splits"] == dict(cut({"all": 40}, 0.1, 0.2, 4)[1])
    assert len(about["splits"]["train"]["rows_sha256"]) == 64


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_data_to_split(count):
    with pytest.raises(UserError, match=f"expected at least 3 data to split .*, got {count}"):
        cut({"all": count}, 0.5, 0.5, 0)


# Folders of pictures


def save_pictures(folder: Path, images: np.ndarray, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}{suffix}")


def test_grey_pictures_of_any_size(tmp_path):
    images = pixels(12, 28, 20)
    save_pictures(tmp_path, images)
    found = load_dataset(str(tmp_path), test_fraction=0.25, seed=1)
    assert found.data_shape == (28, 20)
    assert (len(found.train), len(found.test)) == (9, 3)
    assert found.train.labels is None
    order = np.random.default_rng(1).permutation(12)
    assert np.array_equal(found.test.data[:], images[order[:3]].reshape(3, -1))


def test_colour_pictures_with_classes_and_splits(tmp_path):
    images = pixels(10, 32, 32, 3)
    for part, numbers in (("train", range(6)), ("val", range(6, 8)), ("test", range(8, 10))):
        for k in numbers:
            save_pictures(tmp_path / part / ("cat" if k % 2 else "dog") / str(k), images[k : k + 1])
    found = load_dataset(str(tmp_path))
    assert found.data_shape == (3, 32, 32)
    assert found.label_names == ("cat", "dog")
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 2,
    }
    assert found.test.labels is not None
    assert found.test.labels.tolist() == [0, 1]
    expected = images[9].transpose(2, 0, 1).reshape(1, -1)
    assert np.array_equal(found.test.data[:1], expected)


def test_one_colour_picture_makes_all_colour_and_sizes_can_be_changed(tmp_path):
    save_pictures(tmp_path, pixels(4, 8, 6))
    Image.fromarray(pixels(1, 8, 6)[0]).convert("P").save(tmp_path / "palette.gif")
    assert load_dataset(str(tmp_path)).data_shape == (8, 6)
    Image.fromarray(pixels(1, 16, 12, 3)[0]).save(tmp_path / "z.png")
    with pytest.raises(
        UserError, match=r"one size, got 8x6 .* in .*000\.png and 16x12 in .*z\.png"
    ):
        load_dataset(str(tmp_path))
    assert load_dataset(str(tmp_path), image_size=(4, 3)).data_shape == (3, 4, 3)


def test_bad_folders(tmp_path):
    with pytest.raises(UserError, match="expected IDX files or pictures in .*, got neither"):
        load_dataset(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"\x89PNG no")
    with pytest.raises(UserError, match=r"a\.png is no readable picture"):
        load_dataset(str(tmp_path))
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"8-bit pictures, got mode I.* in .*a\.png"):
        load_dataset(str(tmp_path))
    save_pictures(tmp_path, pixels(3, 9, 9))
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="3 pictures of 9x9x1 need more than memory_budget"):
        load_dataset(str(tmp_path), **TINY)


def test_a_picture_is_what_its_content_says_and_only_of_usual_formats(tmp_path, monkeypatch):
    """EPS would be given to Ghostscript, whatever the file is called."""
    Image.fromarray(pixels(1, 8, 6, 3)[0]).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    started = []
    monkeypatch.setattr("subprocess.check_call", lambda *call, **_: started.append(call))
    with pytest.raises(UserError, match=r"a\.png is no readable picture: cannot identify"):
        load_dataset(str(tmp_path))
    assert not started
    (tmp_path / "a.png").unlink()
    kinds = {"PNG": 0, "JPEG": 1, "BMP": 2, "GIF": 3, "TIFF": 4, "PPM": 5, "WEBP": 6}
    for kind in kinds:
        Image.fromarray(pixels(1, 8, 6)[0]).save(tmp_path / f"{kind}.png", kind)
    assert len(load_dataset(str(tmp_path)).train) == len(kinds) - 1


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_decompression_bomb_is_one_line(side, tmp_path, recwarn):
    Image.new("1", (side, side)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is no readable picture: .*pixels") as error:
        load_dataset(str(tmp_path), image_size=(8, 8))
    assert "\n" not in str(error.value)
    assert not recwarn.list


# Hugging Face


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


# What the numbers are


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 255], [255, 0]], np.uint8), (0.0, 1.0, True, True, True)),
        (np.array([[0, 7], [255, 0]], np.uint8), (0.0, 1.0, False, False, True)),
        (np.array([[0, 7], [3, 0]]), (0.0, 7.0, True, False, False)),
        (np.array([[0.0, 0.2], [1.0, 3 / 255]]), (0.0, 1.0, False, False, True)),
        (np.array([[0.0, 0.21], [1.0, 0.5]]), (0.0, 1.0, False, False, False)),
        (np.array([[-1.5, 0.21], [1.0, 0.5]]), (-1.5, 1.0, False, False, False)),
    ],
)
def test_statistics(array, expected):
    found = Dataset.from_arrays(array, array).statistics
    assert (found.low, found.high) == pytest.approx(expected[:2])
    assert (found.integer, found.binary, found.eight_bit) == expected[2:]


def test_labels_of_plain_arrays(tmp_path):
    x = np.column_stack([np.random.default_rng(0).random((20, 3)), np.arange(20) % 4])
    np.save(tmp_path / "x.npy", x)
    found = load_dataset(str(tmp_path / "x.npy"), label_column="-1")
    assert found.data_shape == (3,)
    assert found.test.labels is not None
    assert found.test.labels.dtype == torch.int64
    with pytest.raises(UserError, match="label_column: expected the number of a column .*'kind'"):
        load_dataset(str(tmp_path / "x.npy"), label_column="kind")
    np.savez(tmp_path / "x.npz", x=x[:, :3], digit=np.arange(20))
    named = load_dataset(str(tmp_path / "x.npz"), label_column="digit")
    assert named.test.labels is not None
    with pytest.raises(UserError, match="label_column: no array 'kind' in .*, got x, digit"):
        load_dataset(str(tmp_path / "x.npz"), label_column="kind")


def test_data_outside_the_support_is_refused_before_anything_is_written(tmp_path):
    np.save(tmp_path / "x.npy", np.full((9, 4), 7.0))
    with pytest.raises(
        UserError, match=r"likelihood: bernoulli expects numbers in \[0, 1\].* 7 to 7"
    ):
        flowvae.train("original", data=str(tmp_path / "x.npy"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"binarization: static expects pixels in \[0, 1\]"):
        load_dataset(str(tmp_path / "x.npy"), "static")

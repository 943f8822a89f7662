"""Folders of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowvae import UserError
from flowvae.data import load_dataset
from tests.helpers.making import TINY, pixels


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


def test_a_validation_folder_without_a_test_folder_is_the_test(tmp_path):
    images = pixels(8, 6, 5)
    for k in range(8):
        part = "train" if k < 6 else "val"
        save_pictures(tmp_path / part / ("cat" if k % 2 else "dog") / str(k), images[k : k + 1])
    found = load_dataset(str(tmp_path))
    assert (len(found.train), len(found.test), found.validation) == (6, 2, None)
    assert found.label_names == ("cat", "dog")

"""Folders of pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flowvae.data.splits import SourceArrays
from flowvae.errors import UserError

__all__ = ["image_folder", "is_image_folder", "opened_picture", "read_images"]

# By their content, whatever their names say: Pillow's other readers start programs (EPS) or reach
# for files and memory that a picture has no business with.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
)
_SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "t10k": "test"}
_SPLIT_NAMES |= dict.fromkeys(("validation", "valid", "val"), "validation")
_GREY = frozenset(("1", "L", "LA", "La"))


def is_image_folder(folder: Path) -> bool:
    """Whether there is a picture in it, not too deep."""
    patterns = ("*", "*/*", "*/*/*", "*/*/*/*")
    return any(_is_picture(path) for pattern in patterns for path in folder.glob(pattern))


def image_folder(folder: Path, budget: int, image_size: Sequence[int] = ()) -> SourceArrays:
    """Pictures as uint8: (H, W) if all are grey, else (3, H, W).

    ``folder/*.png`` has no labels, ``folder/CLASS/*.png`` has; either may lie in subfolders named
    train, test and perhaps validation; a validation folder without a test folder is the test.

    Raises:
        UserError: pictures of different sizes, none at all, unreadable ones, or too many for the
            memory budget.
    """
    inner = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    named = {_SPLIT_NAMES[name]: path for name, path in inner.items() if name in _SPLIT_NAMES}
    if "train" in named and "test" not in named and "validation" in named:
        named["test"] = named.pop("validation")  # it is what is held out
    parts = named if {"train", "test"} <= set(named) else {"all": folder}
    listed = {name: _listing(path) for name, path in parts.items()}
    every = [path for files, _ in listed.values() for path in files]
    pixels = read_images(every, _opened, str, budget, image_size)
    with_labels = all(classes is not None for _, classes in listed.values())
    names = sorted({name for _, classes in listed.values() for name in classes or []})
    notes = _mixed_note(folder, listed)
    arrays: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    start = 0
    for part, (files, classes) in listed.items():
        arrays[part] = pixels[start : start + len(files)]
        start += len(files)
        if with_labels and classes is not None:
            labels[part] = np.array([names.index(name) for name in classes])
    return SourceArrays(
        str(folder.resolve()), arrays, labels, tuple(names) if with_labels else None, notes
    )


def read_images(
    sources: Sequence[Any],
    opened: Callable[[Any], Any],
    called: Callable[[Any], str],
    budget: int,
    image_size: Sequence[int] = (),
) -> np.ndarray:
    """Pictures (N, H, W) or (N, 3, H, W) as uint8.

    Args:
        sources: what ``opened`` makes a context with a Pillow image of.
        opened: see above.
        called: a source's name, for errors.
        budget: the most bytes the result may have.
        image_size: (height, width) to which every picture is resized; as they are if empty.
    """
    colour, size, first = False, tuple(image_size[::-1]), ""
    for source in sources:
        with opened(source) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(
                    f"data: expected 8-bit pictures, got mode {image.mode} in {called(source)}; "
                    "convert it, or save numbers as .npy"
                )
            colour = colour or not _is_grey(image)
            if not image_size:
                first, size = first or called(source), size or image.size
                if image.size != size:
                    raise UserError(
                        f"data: expected pictures of one size, got {size[1]}x{size[0]} (height x "
                        f"width) in {first} and {image.height}x{image.width} in {called(source)}; "
                        "image_size resizes all"
                    )
    mode, channels = ("RGB", 3) if colour else ("L", 1)
    width, height = size
    # One more while a picture is converted, resized and turned.
    if (len(sources) + 1) * channels * height * width > budget:
        raise UserError(
            f"data: {len(sources)} pictures of {height}x{width}x{channels} need more than "
            "memory_budget; raise it, resize with image_size, or save them as a .npy, which is "
            "read from disk as needed"
        )
    found = np.empty((len(sources), channels, height, width), np.uint8)
    for number, source in enumerate(sources):
        with opened(source) as image:
            pixels = image.convert(mode)
            if pixels.size != size:
                pixels = pixels.resize(size)
            found[number] = np.asarray(pixels).reshape(height, width, channels).transpose(2, 0, 1)
    return found if colour else found[:, 0]


def _is_grey(image: Any) -> bool:
    if image.mode == "P":
        palette = image.convert("RGB").getcolors(256) or []
        return all(red == green == blue for _, (red, green, blue) in palette)
    return image.mode in _GREY


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def _listing(folder: Path) -> tuple[list[Path], list[str] | None]:
    """The pictures, and each one's class if they lie in class folders."""
    flat = sorted(path for path in folder.iterdir() if _is_picture(path))
    if flat:
        return flat, None
    files = sorted(path for path in folder.glob("*/**/*") if _is_picture(path))
    if not files:
        raise UserError(f"data: expected pictures, or folders of them, in {folder}, got none")
    return files, [path.relative_to(folder).parts[0] for path in files]


def _mixed_note(
    folder: Path, listed: dict[str, tuple[list[Path], list[str] | None]]
) -> tuple[str, ...]:
    flat = any(classes is None for _, classes in listed.values())
    deep = sum(1 for path in folder.glob("*/*") if _is_picture(path))
    if flat and deep and set(listed) == {"all"}:
        return (f"pictures in subfolders of {folder} are left out: there are some beside them",)
    return ()


@contextmanager
def opened_picture(source: Any, name: str) -> Iterator[Any]:
    """A Pillow image of a path or an open file.

    Raises:
        UserError: it is no picture in a usual format, broken, or so large that Pillow warns.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=_FORMATS) as image:
                yield image
    except (UserError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  Pillow's readers raise of many kinds
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"data: {name} is no readable picture: {reason}") from None


def _opened(path: Path) -> Any:
    return opened_picture(path, str(path))

"""Files are written whole or not at all."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import pytest

from flowvae import files
from flowvae.files import replacing, replacing_folder, write_csv, write_json, write_text


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def fail() -> None:
        with replacing(file) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half"):
        fail()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="finite numbers, got nan for x"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_folders_are_made_and_modes_are_ordinary(tmp_path):
    file = tmp_path / "new" / "a.csv"
    write_csv(file, ["a", "b"], [(1, "x,y")])
    assert file.read_text() == 'a,b\n1,"x,y"\n'
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("failing", ["mkdtemp", "write", "rename"])
def test_errors_name_the_folder_and_not_the_temporary_one(failing, tmp_path, monkeypatch):
    folder = tmp_path / "a"
    write_text(folder / "old.txt", "old")

    def replace() -> None:
        with replacing_folder(folder) as new:
            if failing == "write":
                (new / "none" / "b").touch()
            write_text(new / "new.txt", "new")
            monkeypatch.setattr(Path, "rename", _full_disk)

    if failing == "mkdtemp":
        monkeypatch.setattr(files.tempfile, "mkdtemp", _full_disk)
    with pytest.raises(OSError, match=f"'{re.escape(str(folder))}'$"):
        replace()
    assert [file.name for file in tmp_path.rglob("*")] == ["a", "old.txt"]


def _full_disk(*_: Any, **options: Any) -> None:
    raise OSError(28, "No space left on device", str(options.get("dir", "/x")) + "/.new-y")


@pytest.mark.parametrize(("refusals", "waits"), [(2, 3), (4, 3), (1, 0)])
def test_a_file_that_is_open_elsewhere_is_waited_for_where_the_system_asks_it(
    refusals, waits, tmp_path, monkeypatch
):
    """As Windows does it: a file that someone reads is not replaced."""
    file, asked = tmp_path / "a.txt", 0
    write_text(file, "old")
    replace = Path.replace

    def refusing(self: Path, target: Path) -> Path:
        nonlocal asked
        asked += 1
        if asked <= refusals:
            raise PermissionError(13, "is used by another process", str(self))
        return replace(self, target)

    monkeypatch.setattr(files, "_WAITS", (0.0,) * waits)
    monkeypatch.setattr(Path, "replace", refusing)
    if refusals > waits:
        with pytest.raises(PermissionError) as error:
            write_text(file, "new")
        assert error.value.filename == str(file)
    else:
        write_text(file, "new")
    assert file.read_text() == ("old" if refusals > waits else "new")
    assert list(tmp_path.iterdir()) == [file]


def test_names_as_long_as_the_system_allows(tmp_path):
    for name in ("a" * 245 + ".html", "é" * 120 + ".html"):
        write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


def test_an_interrupted_exchange_of_folders_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "a"):
        pass
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["old"]

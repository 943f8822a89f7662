"""More than a thousand damaged inputs: exit code 0 or 2, one line, nothing half-made.

The cases are drawn by a generator with a fixed seed; a failure names the case, and the file that
made it is where the message says.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

import flowvae
from tests.helpers import OLD_RUNS
from tests.helpers.fuzzing import JUNK, check_command, damaged_bytes, damaged_value

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")


VERSION_1 = sorted((OLD_RUNS / "version_1").glob("*/model.safetensors"))


def check_all(cases: int, make: Callable[[int, Random], list[str]], out: Path, **limits) -> None:
    """``make`` writes the input of case n and gives the command; all that is wrong is shown."""
    wrong = []
    for n in range(cases):
        arguments = make(n, Random(n))  # noqa: S311
        found = check_command(arguments, out, **limits)
        if found:
            wrong.append(f"case {n}: {' '.join(arguments)[:200]!r}: {found}")
        if out.is_dir():
            for file in sorted(out.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            out.rmdir()
        elif out.exists():
            out.unlink()
    assert not wrong, f"{len(wrong)} of {cases}:\n" + "\n".join(wrong[:20])


def rewritten(file: Path, target: Path, change: Callable[[dict], object]) -> None:
    """The same weights under another header."""
    with safe_open(file, "np") as opened:
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        header = opened.metadata()
    about = change(json.loads(header["flowvae"]))
    header["flowvae"] = json.dumps(about)
    save_file(weights, target, header)


def test_headers_of_model_files(run, tmp_path):
    """Of today and of version 1."""
    files = [run.path / "model.safetensors", *VERSION_1]

    def make(n: int, random: Random) -> list[str]:
        target = tmp_path / "model.safetensors"
        rewritten(files[n % len(files)], target, lambda about: damaged_value(about, random))
        return ["sample", str(target), "--num", "2", "--out", str(tmp_path / "out.npz")]

    check_all(250, make, tmp_path / "out.npz")


@pytest.mark.parametrize(
    ("settings", "data_shape"),
    [
        ({"posterior": {"name": "planar", "num_flows": 10**7}}, [6, 5]),
        ({"posterior": {"name": "iaf", "num_flows": 10**7}}, [6, 5]),
        ({"posterior": {"name": "iaf", "num_flows": 2}, "latent_dim": 10**6}, [6, 5]),
        ({"posterior": {"name": "full_gaussian"}, "latent_dim": 10**6}, [6, 5]),
        ({"network": {"name": "mlp", "hidden_dims": [10**6, 10**6]}}, [6, 5]),
        ({"network": {"name": "mlp", "hidden_dims": [8] * 10**4}}, [6, 5]),
        ({"prior": {"name": "gaussian_mixture", "num_components": 10**9}}, [6, 5]),
        ({}, [2**31]),
        ({}, [2**31, 2**31]),
    ],
    ids=str,
)
def test_models_larger_than_their_file(settings, data_shape, run, tmp_path):
    """A few kB that name a model of gigabytes: refused at once, without its memory."""

    def change(about: dict) -> dict:
        about["config"]["model"] |= settings
        return about | {"data_shape": data_shape}

    rewritten(run.path / "model.safetensors", tmp_path / "model.safetensors", change)
    command = ["sample", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "out.npz")]
    limits = {"seconds": 5, "megabytes": 300}
    assert check_command(command, tmp_path / "out.npz", codes=(2,), **limits) is None


def test_bytes_of_model_files(run, tmp_path):
    content = (run.path / "model.safetensors").read_bytes()

    def make(n: int, random: Random) -> list[str]:
        (tmp_path / "model.safetensors").write_bytes(damaged_bytes(content, random))
        model = str(tmp_path / "model.safetensors")
        return ["sample", model, "--num", "2", "--out", str(tmp_path / "out.npz")]

    check_all(100, make, tmp_path / "out.npz")


def test_configurations(run, tmp_path):
    """As structures and as text; the data are not there, so that nothing is trained."""
    named = flowvae.preset("planar").model_dump(mode="json")
    text = flowvae.preset("planar").to_yaml()

    def make(n: int, random: Random) -> list[str]:
        if n % 2:
            content = damaged_bytes(text.encode(), random)
        else:
            damaged = damaged_value(named, random)
            content = yaml.safe_dump(damaged, allow_unicode=True).encode("utf-8", "replace")
        file = tmp_path / "config.yaml"
        file.write_bytes(content)
        command = ["train", "--config", str(file), "--data", "nosuch"]
        return [*command, "--out", str(tmp_path / "out")]

    check_all(200, make, tmp_path / "out")


@pytest.mark.parametrize("text", ["a: " + "9" * 5000, "[" * 2000, "{" * 2000, "a: &a [*a]"])
def test_yaml_that_is_hard_to_read(text, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    found = check_command(["train", "--config", str(file), "--data", "nosuch"])
    assert found is None


def numpy_header(random: Random) -> bytes:
    shapes = ["(20, 5)", "(-1, 5)", "(10**12, 5)", "(20,)", "()", "(20, 5", "(1,)*99", "None"]
    kinds = ["'<f8'", "'|V0'", "'<U0'", "'|O'", "[('a', '<f8')]", "'<M8[s]'", "'<c16'", "1", "'"]
    fields = {
        "descr": random.choice(kinds),
        "fortran_order": random.choice(["False", "True", "1", "None"]),
        "shape": random.choice(shapes),
        random.choice(["x", "shape", "descr"]): random.choice([*kinds, *shapes]),
    }
    text = "{" + ", ".join(f"{key!r}: {value}" for key, value in fields.items()) + "}"
    text = random.choice([text, text[:-1], text + "#", "9" * 5000, "(" * 500, text])
    version = random.choice([b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x09\x00"])
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode() + bytes(800)


def test_arrays(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "whole.npy", rng.random((20, 5)))
    np.savez(tmp_path / "whole.npz", x_train=rng.random((20, 5)), x_test=rng.random((9, 5)))
    whole = {s: (tmp_path / f"whole{s}").read_bytes() for s in (".npy", ".npz")}

    def make(n: int, random: Random) -> list[str]:
        suffix = (".npy", ".npz")[n % 2]
        content = damaged_bytes(whole[suffix], random)
        if n % 4 == 0:
            content = numpy_header(random)
        file = tmp_path / f"damaged{suffix}"
        file.write_bytes(content)
        return ["data", str(file)]

    check_all(200, make, tmp_path / "out")


def test_idx_files(tmp_path):
    whole = struct.pack(">BBBB3i", 0, 0, 8, 3, 20, 4, 3) + bytes(range(240))

    def make(n: int, random: Random) -> list[str]:
        file = tmp_path / "damaged-idx3-ubyte"
        file.write_bytes(damaged_bytes(whole, random))
        return ["data", str(file)]

    check_all(100, make, tmp_path / "out")


def test_tables(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=30), "n": rng.integers(0, 9, 30), "c": ["a", "b", "ü"] * 10}
    pq.write_table(pa.table(columns), tmp_path / "whole.parquet")
    parquet = (tmp_path / "whole.parquet").read_bytes()
    rows = [",".join(columns), *(f"{x:.4f},{n},{c}" for x, n, c in zip(*columns.values()))]  # noqa: B905
    csv = "\n".join(rows).encode()

    def make(n: int, random: Random) -> list[str]:
        if n % 3 == 0:
            file, content = tmp_path / "damaged.parquet", damaged_bytes(parquet, random)
        elif n % 3 == 1:
            file, content = tmp_path / "damaged.csv", damaged_bytes(csv, random)
        else:  # a cell of another kind
            table = [row.split(",") for row in rows]
            value = str(random.choice(JUNK))
            random.choice(table)[random.randrange(3)] = value
            file = tmp_path / "damaged.csv"
            content = "\n".join(map(",".join, table)).encode("utf-8", "replace")
        file.write_bytes(content)
        return ["data", str(file)]

    check_all(150, make, tmp_path / "out")


def test_pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    whole = {}
    for suffix in (".png", ".jpg", ".gif", ".bmp"):
        for name in "abcd":
            picture = Image.fromarray(rng.integers(0, 256, (6, 5), np.uint8))
            picture.save(folder / f"{name}{suffix}")
        whole[suffix] = (folder / f"a{suffix}").read_bytes()

    def make(n: int, random: Random) -> list[str]:
        suffix = random.choice(list(whole))
        (folder / "a.png").write_bytes(damaged_bytes(whole[suffix], random))
        return ["data", str(folder)]

    check_all(100, make, tmp_path / "out")


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 5 6
%%EndComments
(%pipe%touch ran) (w) file closefile
%%EOF
"""


def test_a_picture_of_a_format_that_runs_programs(tmp_path, monkeypatch):
    """Pillow would hand an EPS to Ghostscript, whatever the file is called."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(EPS)
    assert check_command(["data", str(tmp_path)], codes=(2,)) is None
    assert not (tmp_path / "ran").exists()


def test_an_encrypted_archive(tmp_path, capsys):
    np.savez(tmp_path / "whole.npz", x=np.random.default_rng(0).random((20, 5)))
    content = bytearray((tmp_path / "whole.npz").read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    (tmp_path / "locked.npz").write_bytes(content)
    assert check_command(["data", str(tmp_path / "locked.npz")], codes=(2,)) is None


def test_whole_numbers_beyond_float64(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + f"{2**53 + 1},{2**63 - 1}\n1,2\n" * 9)
    assert check_command(["data", str(tmp_path / "a.csv")]) is None


def test_weights_that_are_no_numbers(run, tmp_path):
    with safe_open(run.path / "model.safetensors", "np") as opened:
        weights = {name: opened.get_tensor(name) * np.nan for name in opened.keys()}  # noqa: SIM118
        header = opened.metadata()
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder)
    before = (folder / "evaluation.json").read_bytes()
    save_file(weights, folder / "model.safetensors", header)
    with pytest.raises(flowvae.UserError, match=r"model.safetensors: weight \S+ is not finite"):
        flowvae.evaluate(folder, progress=False)
    assert (folder / "evaluation.json").read_bytes() == before


FLAGS = [
    *("--latent-dim", "--num-flows", "--hidden-dims", "--epochs", "--batch-size", "--seed"),
    *("--learning-rate", "--weight-decay", "--max-grad-norm", "--beta", "--samples", "--threads"),
    *("--posterior", "--prior", "--likelihood", "--network", "--objective", "--constraint"),
    *("--schedule", "--precision", "--device", "--binarization", "--validation-fraction"),
    *("--memory-budget", "--test-fraction", "--evaluation-samples", "--preset", "--nosuch"),
]


def test_flags(tmp_path):
    def make(n: int, random: Random) -> list[str]:
        arguments = ["train", "--data", "nosuch", "--out", str(tmp_path / "out")]
        for _ in range(random.choice([1, 1, 2])):
            # An argument of a command can hold no NUL.
            arguments += [random.choice(FLAGS), str(random.choice(JUNK)).replace("\x00", "")]
        return arguments

    check_all(250, make, tmp_path / "out")


def test_flags_of_other_commands(run, tmp_path):
    commands = [
        ["sample", str(run.path), "--num"],
        ["sample", str(run.path), "--seed"],
        ["sample", str(run.path), "--device"],
        ["reconstruct", str(run.path), "--num"],
        ["encode", str(run.path), "--data"],
        ["evaluate", str(run.path), "--samples"],
        ["sample"],
        ["data"],
    ]

    def make(n: int, random: Random) -> list[str]:
        command = commands[n % len(commands)]
        value = str(JUNK[n % len(JUNK)]).replace("\x00", "")
        value = "7" if value == str(10**7) else value  # so many samples may be taken
        out = [] if command[0] in ("evaluate", "data") else ["--out", str(tmp_path / "out.npz")]
        return [*command, value, *out]

    for command in commands[:5]:  # without what is damaged each of them works
        arguments = [*command[:2], "--out", str(tmp_path / "whole.npz")]
        assert check_command(arguments, codes=(0,)) is None
    check_all(100, make, tmp_path / "out.npz")


@pytest.mark.parametrize(
    "flags",
    [
        ["--beta", "1e308"],
        ["--learning-rate", "1e30"],
        ["--learning-rate", "1e-320"],
        ["--max-grad-norm", "1e-300"],
        ["--weight-decay", "1e300"],
        ["--latent-dim", "1"],
        ["--batch-size", "9999999"],
    ],
    ids=" ".join,
)
def test_settings_at_the_edge_train_or_say_why_not(flags, data_file, tmp_path):
    """Here training may fail, with exit code 1 and a record that is whole."""
    out = tmp_path / "out"
    command = ["train", "--data", str(data_file), "--epochs", "1", "--hidden-dims", "8", "--quiet"]
    command += ["--evaluation-samples", "2", "--out", str(out), *flags]
    assert check_command(command, out, codes=(0, 1, 2), seconds=60) is None
    for file in out.rglob("*.json"):
        json.loads(file.read_text(), parse_constant=pytest.fail)

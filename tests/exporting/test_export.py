"""The folder that ``flowvae export`` writes: whole or not at all, and nothing of this machine."""

from __future__ import annotations

import io
import json
import math
import os
import pickletools
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import flowvae
from flowvae import UserError
from flowvae.distributions import LatentDistribution
from tests.helpers.making import call

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")

ROOT = Path(__file__).parents[2]
PARTS = ("encode", "flow", "decode", "prior", "log_prior")
module = import_module("flowvae.exporting.export")


@pytest.fixture(scope="module")
def folders(run, tmp_path_factory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("exported")
    return {kind: flowvae.export(run, kind, out / kind) for kind in module.FORMATS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_what_is_there(kind, folders, run):
    folder = folders[kind]
    suffix = module.FORMATS[kind]
    assert {file.name for file in folder.iterdir()} == {
        *(f"{name}{suffix}" for name in PARTS),
        "export.json",
        "README.md",
    }
    about = json.loads((folder / "export.json").read_text())
    assert about["format"] == kind
    assert about["left_out"] == {}
    assert (about["latent_dim"], about["data_shape"]) == (2, [6, 5])
    assert about["posterior"] == run.config.model.posterior.model_dump(mode="json")
    encode = about["graphs"]["encode"]
    assert encode["inputs"][0]["shape"] == ["B", 30]
    shapes = {each["name"]: each["shape"] for each in encode["outputs"]}
    assert shapes == {
        "mu": ["B", 2],
        "log_var": ["B", 2],
        "w": ["B", 3, 2],
        "u": ["B", 3, 2],
        "b": ["B", 3],
    }
    named = [
        port for graph in about["graphs"].values() for port in (*graph["inputs"], *graph["outputs"])
    ]
    assert all(port["meaning"] for port in named)
    largest = max(max(each.values()) for each in about["check"]["largest"].values())
    assert 0 < largest <= about["check"]["tolerance"] == 1e-5
    page = (folder / "README.md").read_text()
    assert all(f"`{port['name']}`" in page for port in named)


@pytest.mark.slow
def test_names_and_shapes_of_onnx_are_those_that_are_written(folders):
    about = json.loads((folders["onnx"] / "export.json").read_text())
    for graph in about["graphs"].values():
        proto = onnx.load(str(folders["onnx"] / graph["file"]))
        onnx.checker.check_model(proto, full_check=True)
        assert proto.opset_import[0].version == about["opset"]
        for side, ports in (("inputs", proto.graph.input), ("outputs", proto.graph.output)):
            assert [each["name"] for each in graph[side]] == [port.name for port in ports]
            for each, port in zip(graph[side], ports, strict=True):
                dims = port.type.tensor_type.shape.dim
                assert dims[0].dim_param
                assert [d.dim_value for d in dims[1:]] == each["shape"][1:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_nothing_of_this_machine_and_no_pickle(kind, folders):
    for file in folders[kind].iterdir():
        members = {file.name: file.read_bytes()}
        if file.suffix == ".pt2":
            with zipfile.ZipFile(file) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
        for name, content in members.items():
            for word in (str(ROOT), str(Path(torch.__file__).parent), ".py"):
                assert word.encode() not in content, (name, word)
            assert not is_pickle(content), name


def is_pickle(content: bytes) -> bool:
    """Whether an archive of torch.save's, or a pickle to its last byte."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        return True
    try:
        *_, last = pickletools.genops(content)
    except ValueError:
        return False
    return last[2] == len(content) - 1


@pytest.mark.slow
def test_programs_of_torch_are_loaded_and_called_in_order(folders, run):
    about = json.loads((folders["torch"] / "export.json").read_text())
    x = run.dataset.test.values(slice(5))
    encode = torch.export.load(folders["torch"] / "encode.pt2").module()
    tensors = run.model.posterior(x).tensors()
    for got, (name, expected) in zip(encode(x), tensors.items(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert about["graphs"]["flow"]["inputs"][list(tensors).index(name) + 1]["name"] == name


@pytest.mark.slow
def test_the_example_without_torch(folders, run, tmp_path):
    x = run.dataset.test.values(slice(50)).numpy()
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, json, numpy as np\n"
        "sys.modules['torch'] = sys.modules['flowvae'] = None\n"
        "from pathlib import Path\n"
        "from examples.onnx_without_torch import Exported, main\n"
        f"model = Exported(Path({str(folders['onnx'])!r}))\n"
        f"x, rng = np.load({str(tmp_path / 'x.npy')!r}), np.random.default_rng(0)\n"
        "found = {'bound': model.iw_bound(x, 64, rng).tolist(),\n"
        "         'mean': model.sample(400, rng).mean(0).tolist(),\n"
        "         'again': model.reconstruct(x, rng).tolist()}\n"
        "print(json.dumps(found))\n"
        f"sys.argv = ['x', {str(folders['onnx'])!r}, {str(tmp_path / 'x.npy')!r}]\n"
        "main()\n"
    )
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert "64-sample bound on log p(x)" in others[0]
    found = json.loads(first)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        spread = torch.stack(
            [run.model.iw_bound(torch.from_numpy(x), 64, generator) for _ in range(20)]
        )
        drawn = run.model.sample(4000, generator)
        again = run.model.reconstruct(torch.from_numpy(x), generator).numpy()
    # Noise differs: each bound lies where twenty of PyTorch's do.
    error = spread.std(0) * math.sqrt(1 + 1 / 20)
    z = (torch.tensor(found["bound"]) - spread.mean(0)) / error
    assert z.abs().max() < 6
    assert z.mean().abs() < 4 / math.sqrt(50)
    gap = torch.tensor(found["mean"]) - drawn.mean(0)
    assert (gap.abs() < 6 * drawn.std(0) / math.sqrt(400)).all()
    errors = [np.square(each - x).mean() for each in (np.array(found["again"]), again)]
    np.testing.assert_allclose(*errors, rtol=0.1)


@pytest.fixture
def quick(monkeypatch):
    """No conversion: what is tested is what happens around it."""
    monkeypatch.setattr(module, "_content", lambda graph, kind: graph.name.encode())
    found = {"encode": {"mu": 0.0}}
    monkeypatch.setattr(module, "_differences", lambda *_: found)


def test_an_earlier_export_is_replaced_and_other_folders_are_not(quick, run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert flowvae.export(run, "torch", out) == out
    first = (out / "export.json").read_text()
    (out / "encode.pt2").write_text("old")
    flowvae.export(run, "torch", out)
    assert (out / "encode.pt2").read_text() == "encode"
    assert (out / "export.json").read_text() == first
    (out / "mine.txt").touch()
    for folder in (out, tmp_path):
        with pytest.raises(UserError, match="expected a new or empty folder, or an earlier export"):
            flowvae.export(run, "torch", folder)
    assert (out / "mine.txt").exists()
    (out / "mine.txt").unlink()
    (out / "export.json").write_text("[" * 10_000)  # tampered with: not known as an export
    with pytest.raises(UserError, match="holds something else"):
        flowvae.export(run, "torch", out)
    monkeypatch.chdir(tmp_path)
    for folder in (".", "..", tmp_path):  # before anything is computed
        with pytest.raises(UserError, match="expected a folder that is not the current one, nor"):
            flowvae.export(run, "torch", folder)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="expected a new or empty folder"):
        flowvae.export(run, "torch", file)


def test_nothing_is_left_where_a_file_says_something_else(run, tmp_path, monkeypatch):
    right = module.runner_of

    def wrong(kind, content):
        found = right(kind, content)
        return lambda *inputs: [value * np.float32(1.001) for value in found(*inputs)]

    monkeypatch.setattr(module, "runner_of", wrong)
    with pytest.raises(UserError, match=r"encode.pt2 differs from PyTorch: \w+ by .*Nothing was"):
        flowvae.export(run, "torch", tmp_path / "out")
    monkeypatch.setattr(module, "runner_of", lambda *_: lambda *_: [np.full((1, 2), np.nan)] * 5)
    with pytest.raises(UserError, match=r"differs from PyTorch: mu by nan|of shape"):
        flowvae.export(run, "torch", tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_nothing_is_left_where_the_disk_is_full(quick, run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        flowvae.export(run, "onnx", tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_bad_input_is_one_line(run, tmp_path, capsys, monkeypatch):
    with pytest.raises(UserError, match="format: expected onnx or torch, got 'pickle'"):
        flowvae.export(run, "pickle", tmp_path / "out")
    assert call("export", run.path, "--format", "torchscript") == 2
    assert call("export", tmp_path / "none") == 2
    shown = capsys.readouterr().err
    assert "expected a run folder with model.safetensors" in shown
    assert shown.count("\n") == 2
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript, .*pip install 'flowvae\[onnx\]'"):
        flowvae.export(run, "onnx", tmp_path / "out")
    monkeypatch.setattr(torch, "__version__", "2.4.1")
    with pytest.raises(UserError, match=r"expected PyTorch 2.9 or later, got 2.4.1"):
        flowvae.export(run, "torch", tmp_path / "out")
    assert not any(tmp_path.iterdir())


class OddDistribution(LatentDistribution):
    """It draws, and says nothing of what it is made of."""

    def rsample_terms(self, sample_shape=(), generator=None):
        raise AssertionError


class Odd(torch.nn.Module):
    """A posterior of one's own."""

    def __init__(self, in_features: int, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.unused = torch.nn.Parameter(torch.zeros(in_features))

    def forward(self, features: torch.Tensor) -> LatentDistribution:
        shape = torch.Size([self.latent_dim])
        return OddDistribution(features.shape[:-1], shape, validate_args=False)


def test_a_posterior_that_cannot_be_exported_says_why(tmp_path):
    config = flowvae.Config(posterior=f"{__name__}:Odd")
    run = flowvae.Run(tmp_path / "run", config, flowvae.build_vae(config, (6, 5)).eval())
    with pytest.raises(
        UserError, match=r"Odd gives a OddDistribution, which does not say what it is"
    ):
        flowvae.export(run, "torch", tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_the_command(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "_content", lambda graph, kind: b"")
    monkeypatch.setattr(module, "_differences", lambda *_: {"encode": {"mu": 0.0}})
    assert call("export", run.path, "--format", "torch", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Wrote {tmp_path / 'out'}: README.md, decode.pt2")

"""Runs to a stand-in for the hub and back: the real one was not tried."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
import torch
import yaml

import flowvae
from flowvae import UserError
from flowvae.config import resolve_config
from flowvae.data import Column
from flowvae.figures import picture_names
from flowvae.hub.card import card
from flowvae.hub.fetching import fetched, is_on_hub
from flowvae.runs import Run
from tests.helpers.hub import TOKEN, Repository, stand_in
from tests.helpers.making import call

pytest.importorskip("huggingface_hub")
from huggingface_hub import constants

# Of the library itself, in its upload of large files.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


LABEL = (Column("kind", "categorical", ("cat", "*dog*")),)
SEVERAL = (
    Column("age", "numeric", mean=40.0, scale=10.0),
    Column("sex", "binary", ("female", "male")),
)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of our own, a cache of our own, and a login."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with stand_in() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        yield found


def test_a_run_there_and_back(hub, run):
    address = flowvae.push(run, "me/blobs", licence="mit")
    assert address == f"{hub.address}/me/blobs"
    files = hub.repositories["me/blobs"].files
    assert {name for name in files if "/" not in name} == {
        "README.md",
        "config.yaml",
        "environment.json",
        "evaluation.json",
        "metrics.csv",
        "model.safetensors",
    }
    pictures = {f"figures/{file.name}" for file in run.figures.glob("*.png")}
    assert {name for name in files if "/" in name} == pictures != set()
    model = flowvae.load("hf://me/blobs")
    assert hub.downloads() == ["model.safetensors"]
    x = run.dataset.test.values(slice(5))
    for use in (
        lambda m: m.elbo(x, 3, torch.Generator().manual_seed(0)),
        lambda m: m.sample(3, torch.Generator().manual_seed(0)),
    ):
        assert torch.equal(use(model), use(run.model.cpu()))
    again = flowvae.open_run("hf://me/blobs", device="cpu")
    assert set(hub.downloads()) == {
        "model.safetensors",
        "config.yaml",
        "evaluation.json",
        "metrics.csv",
    }
    assert again.evaluation is not None
    assert again.evaluation.terms == run.evaluation.terms
    assert again.metrics == run.metrics
    assert again.config.model == run.config.model


def test_what_belongs_to_this_machine_stays_here(hub, run, tmp_path):
    path = tmp_path / "somebody" / "run"
    shutil.copytree(run.path, path)
    (path / ".lock").touch()
    (path / "mine.txt").touch()
    assert call("push", path, "me/blobs", "--private") == 0
    source = Path(run.config.data.source)
    assert source.is_absolute()  # else nothing is tested
    environment = json.loads((path / "environment.json").read_text())
    forbidden = [str(source.parent), str(tmp_path), str(Path.home())]
    forbidden += [environment["device_name"], environment["platform"], environment["started"]]
    if environment["git_commit"]:
        forbidden.append(environment["git_commit"])
    for name, content in hub.repositories["me/blobs"].files.items():
        for word in forbidden:
            assert word.encode() not in content, (name, word)
        assert not name.endswith((".lock", ".txt"))
        assert "checkpoint" not in name
    assert hub.repositories["me/blobs"].private
    told = json.loads(hub.repositories["me/blobs"].files["environment.json"])
    assert "command" not in told
    assert told["data"]["name"] == source.name
    config = yaml.safe_load(hub.repositories["me/blobs"].files["config.yaml"])
    assert config["data"]["source"] == source.name
    assert flowvae.open_run("hf://me/blobs", device="cpu").config.data.source == source.name


def test_the_card_says_what_it_is(hub, run):
    flowvae.push(run, "me/blobs", licence="cc-by-4.0", figures=False)
    files = hub.repositories["me/blobs"].files
    assert not any(name.endswith(".png") for name in files)
    _, head, card = files["README.md"].decode().split("---\n", 2)
    fields = yaml.safe_load(head)
    assert (fields["license"], fields["library_name"]) == ("cc-by-4.0", "flowvae")
    elbo = run.evaluation["elbo"]
    assert f"{elbo.mean:.3f} ± {elbo.standard_error:.3f}" in card
    assert "a pseudo-likelihood" in card  # grey blobs under a Bernoulli likelihood
    code = card.split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102 - the card's own three lines
    assert names["x"].shape == (64, 30)
    assert names["z"].shape == (64, 2)


def test_a_second_push_leaves_nothing_of_the_first(hub, run, tmp_path):
    others = {"LICENSE": b"somebody's", "figures/mine.png": b"mine", ".gitattributes": b"lfs"}
    hub.repositories["me/blobs"] = Repository(files=dict(others))
    flowvae.push(run, "me/blobs")
    files = hub.repositories["me/blobs"].files
    assert {"evaluation.json", "figures/samples.png"} < set(files)
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    for name in ("evaluation.json", "environment.json"):
        (path / name).unlink()
    assert call("push", path, "me/blobs", "--no-figures") == 0
    own = {"README.md", "config.yaml", "metrics.csv", "model.safetensors"}
    assert set(files) == own | set(others)
    assert {name: files[name] for name in others} == others


def test_pictures_are_those_that_flowvae_draws(hub, run, tmp_path):
    path, own = tmp_path / "run", tmp_path / "private.png"
    shutil.copytree(run.path, path)
    own.write_bytes(b"of somebody")
    (path / "figures" / "x](elsewhere).png").write_bytes(b"?")
    (path / "figures" / "me.png").symlink_to(own)
    (path / "figures" / "evaluation.png").write_bytes(b"drawn by evaluate --full")
    flowvae.push(path, "me/blobs")
    files = hub.repositories["me/blobs"].files
    drawn = {f"figures/{name}.png" for name in (*picture_names(run), "evaluation")}
    assert {name for name in files if name.endswith(".png")} == drawn
    assert "elsewhere" not in files["README.md"].decode()
    before = dict(files)
    (path / "figures" / "samples.png").unlink()
    (path / "figures" / "samples.png").symlink_to(own)
    with pytest.raises(UserError, match=r"push: expected a file .* a link, .*samples.png"):
        flowvae.push(path, "me/blobs")
    shutil.rmtree(path / "figures")
    (path / "figures").symlink_to(run.figures)
    with pytest.raises(UserError, match=r"push: expected a file or folder .* a link, .*figures"):
        flowvae.push(path, "me/blobs")
    assert files == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"versions": "x"}, "versions: input should be an object"),
        ({"versions": {"torch": "2`\n# evil"}}, "versions.torch: string should match"),
        ({"device": "cpu`\n\n# evil\n`"}, "device: string should match"),
        ({"device": ["cpu"]}, "device: input should be a valid string"),
        ({"python": "3" * 100}, "python: string should have at most 64"),
        ({"status": "a b"}, "status: string should match"),
        ({"durations": {"training": float("inf")}}, "durations.training: .*finite"),
        ({"data": {"shape": [1] * 99}}, "data.shape: "),
        ({"seed": {"a": 1}}, "seed: input should be a valid integer"),
    ],
)
def test_an_environment_of_a_stranger_is_checked(changed, message, hub, run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    file = path / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(UserError, match=rf"environment.json is corrupt: {message}"):
        flowvae.push(path, "me/blobs")
    assert not hub.repositories


def test_of_an_environment_only_what_is_known_is_told(hub, run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    file = path / "environment.json"
    versions = {"flowvae": "0.1.0", "torch": None, "evil": "`\n# evil", "numpy": "2.0.0+local"}
    about = {"versions": versions, "device": "cuda:1", "more": "`\n# evil", "data": {"train": 7}}
    file.write_text(json.dumps(about))
    flowvae.push(path, "me/blobs")
    files = hub.repositories["me/blobs"].files
    assert json.loads(files["environment.json"]) == {
        "versions": {"flowvae": "0.1.0", "torch": None, "numpy": "2.0.0+local"},
        "device": "cuda",
        "data": {"name": "blobs.npz", "train": 7},
        "seconds": 0.0,
    }
    assert "Trained with flowvae 0.1.0 on `cuda`." in files["README.md"].decode()
    file.write_text("[" * 100_000)
    with pytest.raises(UserError, match="environment.json is corrupt"):
        flowvae.push(path, "me/blobs")


def test_what_a_configuration_says_is_no_markdown(run):
    config = run.config.replace(data="/x/a`\n# evil").model_copy(update={"preset": "`\n# evil"})
    link = config.model.posterior.model_copy(update={"constraint": "[a|b](<c>)\n`"})
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"posterior": link})}
    )
    evaluation = replace(run.evaluation, data="a\n```\n# evil")
    text = card(run.model, config, evaluation, None, [], "me/blobs")
    assert r"constraint \[a\|b\](\<c\>) \`" in text
    inside = False
    for line in text.splitlines():
        inside ^= line.startswith("```")
        assert inside or not line.startswith("# evil")
    assert not inside


def test_errors_are_one_line(hub, run, monkeypatch, capsys):
    hub.repositories["me/pictures"] = Repository(files={"README.md": b"of something else"})
    hub.repositories["me/corrupt"] = Repository(files={"model.safetensors": b"\x80\x04."})
    hub.repositories["me/secret"] = Repository(private=True)
    for place, message in {
        "hf://me/none": "there is no repository me/none, or it is private",
        "hf://me/pictures": "me/pictures is no repository of flowvae's: it has no model.safetens",
        "hf://me/corrupt": "is no model of flowvae's, or corrupt",
        "hf://me/pictures@nowhere": "me/pictures has no such revision",
        "hf://me": "expected OWNER/NAME, got 'me'",
        "hf://../../etc": "expected OWNER/NAME",
        "hf://me/x@../y": "expected hf://OWNER/NAME",
    }.items():
        with pytest.raises(UserError, match=message):
            flowvae.load(place)
    with pytest.raises(UserError, match="not allowed to do this with somebody/x"):
        flowvae.push(run, "somebody/x")
    with pytest.raises(UserError, match="private: me/pictures is there already and public"):
        flowvae.push(run, "me/pictures", private=True)
    assert set(hub.repositories["me/pictures"].files) == {"README.md"}
    with pytest.raises(UserError, match="licence: expected a name of the hub's"):
        flowvae.push(run, "me/x", licence="mine\nevil: true")
    assert call("sample", "hf://me/blobs") == 2
    assert "opens in Python" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(UserError, match="not logged in; .*hf auth login"):
        flowvae.push(run, "me/x")
    with pytest.raises(UserError, match="there is no repository me/secret, or it is private"):
        flowvae.load("hf://me/secret")


def test_no_network_and_no_library(hub, run, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(UserError, match="cannot reach http://127.0.0.1:9 for me/x") as error:
        flowvae.load("hf://me/x")
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (lambda: flowvae.load("hf://me/x"), lambda: flowvae.push(run, "me/x")):
        with pytest.raises(UserError, match=r"pip install 'flowvae\[hub\]'"):
            use()


def test_a_module_of_a_stranger_is_not_imported(hub, tmp_path, monkeypatch):
    """A family outside flowvae is imported when that is trusted, and not before."""
    (tmp_path / "of_a_stranger.py").write_text(
        "from flowvae.posteriors import GaussianPosterior\n"
        "class Theirs(GaussianPosterior):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = flowvae.Config(posterior="of_a_stranger:Theirs")
    run = flowvae.Run(tmp_path / "run", config, flowvae.build_vae(config, (6, 5)).eval())
    flowvae.push(run, "me/theirs")
    assert "trust=True" in hub.repositories["me/theirs"].files["README.md"].decode()
    del sys.modules["of_a_stranger"]
    with pytest.raises(UserError, match="would be imported and its code executed"):
        flowvae.load("hf://me/theirs")
    assert "of_a_stranger" not in sys.modules
    assert flowvae.load("hf://me/theirs", trust=True).latent_dim == 2


def test_a_path_of_any_system_may_be_a_place_on_the_hub(hub):
    hub.repositories["me/x"] = Repository(files={"a": b"1"})
    for kind in (str, PurePosixPath, PureWindowsPath):
        place = kind("hf://me/x")
        assert is_on_hub(place)
        assert (fetched(place, "a") / "a").read_bytes() == b"1"
        assert not is_on_hub(kind("runs/hf:/x"))


def test_only_what_is_asked_for_is_downloaded(hub):
    hub.repositories["me/x"] = Repository(files={"a": b"1", "b": b"2", "evil.py": b"3"})
    folder = fetched("hf://me/x", "a", ["b", "c"])
    assert {file.name for file in folder.iterdir()} == {"a", "b"}
    assert set(hub.downloads()) == {"a", "b"}


@pytest.mark.parametrize(
    ("columns", "settings", "lines"),
    [
        (LABEL, {}, ['y = "cat"', "condition=y", "q(z|x, y)"]),
        (LABEL, {"objective": "m2"}, ["model.classifier(x)"]),
        (LABEL, {"missing": "model"}, ['x[:, ::2] = float("nan")']),
        (SEVERAL, {"prior": "normal"}, ["y = {c.name: "]),
        (SEVERAL[:1], {}, ["y = 40.0"]),
    ],
)
def test_the_card_of_a_conditional_run(columns, settings, lines, tmp_path):
    config = resolve_config(hidden_dims=(8,), condition=("labels",), **settings)
    model = flowvae.build_vae(config, (6, 5), condition=columns)
    text = card(model, config, None, None, [], "me/blobs")
    code = text.split("```python\n")[1].split("```")[0]
    assert all(line in code for line in lines)
    code = code.replace("hf://me/blobs", str(tmp_path))
    flowvae.runs.write_model(tmp_path / "model.safetensors", model, config)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the card's own lines
    assert names["z"].shape == (64, 2)
    assert names["z"].isfinite().all()
    first = ", ".join(column.name for column in columns)
    classes = "" if columns is not LABEL else r" (2 classes): cat, \*dog\*"
    assert f"| conditioned on y | {first}{classes} |" in text
    assert ("| prior p(z\\|y) |" in text) == ("prior" in settings)
    assert ("log_q" in names) == ("objective" in settings)


def test_a_conditional_run_there_and_back(hub, tmp_path):
    config = resolve_config(hidden_dims=(8,), condition=("labels",))
    model = flowvae.build_vae(config, (6, 5), condition=LABEL).eval()
    run = Run(tmp_path / "run", config, model)
    (tmp_path / "run").mkdir()
    run.save_config()
    run.save_model()
    flowvae.push(run, "me/kinds", figures=False)
    fetched_run = flowvae.open_run("hf://me/kinds")
    assert fetched_run.model.condition == LABEL
    x, seeds = torch.rand(3, 30), [torch.Generator().manual_seed(0) for _ in range(2)]
    mine = model.elbo(x, 2, seeds[0], condition="cat")
    assert torch.equal(fetched_run.model.elbo(x, 2, seeds[1], condition="cat"), mine)

"""Exported models that have a condition, a classifier, or data of which values are missing."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Column
from flowvae.data.conditions import encode_condition
from flowvae.exporting.check import check_inputs
from flowvae.exporting.graphs import graphs_of, own_copy
from tests.exporting.test_graphs import KINDS, assert_alike, graphs
from tests.exporting.test_graphs import run as run_graph

LABEL = (Column("kind", "categorical", ("cat", "dog", "*bird*")),)
SEVERAL = (
    Column("age", "numeric", mean=40.0, scale=10.0),
    Column("sex", "binary", ("female", "male")),
    *LABEL,
)


def made(condition=LABEL, **settings) -> flowvae.VAE:
    """Of images of 5 x 4 pixels, its weights large enough that each part matters."""
    small = {"latent_dim": 3, "num_flows": 2} if settings.get("posterior") != "gaussian" else {}
    widths = {} if settings.get("network") == "gated_conv" else {"hidden_dims": (8,)}
    config = resolve_config(**small, **widths, **settings)
    found = flowvae.build_vae(config, (5, 4), 0, condition=condition).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in found.parameters():
        parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return found


def inputs_of(vae: flowvae.VAE) -> dict[str, Tensor]:
    needed, useful = graphs_of(own_copy(vae), "of a test")
    every = (*needed, *useful)
    given = check_inputs(vae, every)
    return {
        name: value
        for graph in every
        for name, value in zip(graph.example, given[graph.name], strict=True)
    }


def check_all(vae: flowvae.VAE, kind: str = "onnx") -> None:
    """Every graph beside what the model's own methods say."""
    parts, given = graphs(vae), inputs_of(vae)
    x, z, eps, y = given["x"], given["z"], given["eps"], given.get("condition")
    q = vae.posterior(x, y)
    under = {} if y is None else {"condition": y}
    assert_alike(run_graph(parts["encode"], kind, x=x, **under), tuple(q.tensors().values()))
    p = vae.decode(z, y)
    expected = tuple({**p.tensors(), "mean": p.mean}.values())
    assert_alike(run_graph(parts["decode"], kind, z=z, **under), expected)
    prior = vae.prior_given(y)
    found = run_graph(parts["log_prior"], kind, z=z, **under)
    assert_alike(found, (prior.log_prob(z),))
    if "uniform" not in given:
        assert_alike(run_graph(parts["prior"], kind, eps=eps, **under), (prior.at_noise(eps).z,))
    if vae.classifier is not None:
        expected = vae.classifier(x).log_softmax(-1)
        assert_alike(run_graph(parts["classify"], kind, x=x), (expected,))
        assert expected.exp().sum(-1).numpy() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_classes(kind):
    vae = made(prior="normal")
    parts = graphs(vae)
    assert {name: list(graph.example) for name, graph in parts.items()} == {
        "encode": ["x", "condition"],
        "flow": ["eps", "mu", "log_var", "w", "u", "b"],
        "decode": ["z", "condition"],
        "prior": ["eps", "condition"],
        "log_prior": ["z", "condition"],
    }
    check_all(vae, kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"condition": SEVERAL, "prior": "flow", "num_prior_flows": 2},
        {"condition": (Column("age", "numeric"),), "prior": "gaussian_mixture"},
        {"network": "gated_conv", "channels": (3, 4)},
        {"posterior": "iaf", "prior": "standard_normal"},
        {"objective": "m2", "prior": "normal"},
        {"objective": "m2", "missing": "model"},
        {"condition": None, "missing": "model"},
        {"missing": "model", "network": "gated_conv", "channels": (3, 4)},
    ],
    ids=lambda settings: "-".join(str(v) for k, v in settings.items() if k != "condition"),
)
def test_other_parts(settings):
    check_all(made(**settings))


def test_of_a_mixture_the_weights_follow_the_condition():
    vae = made(prior="gaussian_mixture", num_components=4)
    parts, y = graphs(vae), torch.eye(3).repeat(22, 1)[:64]
    uniform, eps = torch.linspace(0, 1, 65)[:64], torch.zeros(64, 3)
    assert list(parts["prior"].example) == ["eps", "uniform", "condition"]
    found = run_graph(parts["prior"], "onnx", eps=eps, uniform=uniform, condition=y)
    p = vae.prior(y)
    sums = p.log_weights.double().exp().cumsum(-1)
    index = (uniform.double()[:, None] >= sums).sum(-1).clamp(max=3)
    assert len(index.unique()) == 4
    assert_alike(found, (p.components.loc[index],))


def test_what_is_missing_is_nan_and_what_is_checked_has_some():
    vae = made(None, missing="model")
    x = inputs_of(vae)["x"]
    assert 0.2 < x.isnan().float().mean() < 0.4
    parts = graphs(vae)
    whole = torch.where(x.isnan(), 0.0, x)
    found = run_graph(parts["encode"], "onnx", x=x)[1][0]
    filled = run_graph(parts["encode"], "onnx", x=whole)[1][0]
    assert np.isfinite(found).all()
    assert np.abs(found - filled).max() > 1e-3  # a zero that is there is told from a gap


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export of a run of classes, and its model."""
    path = tmp_path_factory.mktemp("conditional")
    config = resolve_config(
        latent_dim=2, num_flows=2, hidden_dims=(8,), objective="m2", condition=("labels",)
    )
    model = made(objective="m2")
    run = flowvae.Run(path, config.replace(latent_dim=3), model)
    return flowvae.export(run, out=path / "out"), model


@pytest.mark.slow
def test_what_is_written_of_the_condition(folder):
    out, _ = folder
    about = json.loads((out / "export.json").read_text())
    assert about["condition"]["classes"] == ["cat", "dog", "*bird*"]
    assert about["condition"]["dim"] == 3
    assert about["condition"]["columns"][0]["name"] == "kind"
    ports = [
        port for graph in about["graphs"].values() for port in (*graph["inputs"], *graph["outputs"])
    ]
    assert all(port["meaning"] for port in ports)
    assert about["graphs"]["classify"]["outputs"][0]["shape"] == ["B", 3]
    page = (out / "README.md").read_text()
    assert "Conditioned on kind, encoded by `columns`" in page
    assert r"The classes are cat, dog, \*bird\*." in page


@pytest.mark.slow
def test_the_example_under_a_class(folder, tmp_path, capsys, monkeypatch):
    from examples.onnx_without_torch import Exported, main

    out, model = folder
    exported, rng = Exported(out), np.random.default_rng(0)
    y = exported.of_class("dog", 2)["condition"]
    assert y.tolist() == encode_condition(LABEL, "dog", 2).tolist()
    drawn = exported.sample(4000, rng, **exported.of_class("dog", 4000))
    own = model.sample(4000, torch.Generator().manual_seed(0), condition="dog")
    gap = np.abs(drawn.mean(0) - own.mean(0).numpy())
    assert (gap < 6 * own.std(0).numpy() * np.sqrt(2 / 4000)).all()
    np.save(tmp_path / "x.npy", (drawn[:8] > 0.5).astype(np.float32))
    monkeypatch.setattr(sys, "argv", ["x", str(out), str(tmp_path / "x.npy"), "--class", "dog"])
    main()
    assert "bound on log p(x)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_tells_of_values_that_are_not_missing_at_random(tmp_path):
    settings = {"likelihood": "gaussian", "missing": "model", "missingness": "self_masking"}
    config = resolve_config(latent_dim=3, num_flows=2, hidden_dims=(8,), **settings)
    for name, told in (("self_masking", True), ("at_random", False)):
        config = config.replace(missingness=name)
        model = flowvae.build_vae(config, (5,)).eval()
        out = flowvae.export(flowvae.Run(tmp_path / name, config, model), out=tmp_path / f"{name}s")
        page = (out / "README.md").read_text()
        assert ("has the curves under `missingness`" in page) == told
        about = json.loads((out / "export.json").read_text())["data"]
        assert (about["missingness"] is not None) == told

"""Pages of other runs: other dimensions, colours, tables, families that the page cannot compute."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flowvae
from flowvae.data import Dataset
from flowvae.evaluation import quadrature
from flowvae.explorer.arrays import Arrays
from flowvae.explorer.content import page_content
from flowvae.explorer.explore import _page
from tests.explorer.conftest import images
from tests.explorer.test_live import check_posterior, settled

NASTY = "</script><script>alert(1)</script>"


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((9, 7, 3), {"likelihood": "gaussian"}),
        ((3, 9, 7), {"likelihood": "gaussian", "latent_dim": 3}),
        ((9, 7), {"latent_dim": 1}),
        ((9, 7), {"latent_dim": 16}),
        ((40,), {"latent_dim": 2}),
        ((60,), {"latent_dim": 5}),
    ],
    ids=str,
)
def test_shapes_and_dimensions(show, run_of, shape, settings):
    run = run_of(shape=shape, posterior="planar", num_flows=2, **settings)
    page = show(flowvae.explore(run).path)
    settled(page)
    plane = run.model.latent_dim == 2
    assert page.is_visible("#plane-q") == plane
    assert page.is_visible("#traversals") == (not plane)
    page.click("#examples button >> nth=3")
    settled(page)
    check_posterior(page, run.model)
    if not plane:
        assert page.locator("#neighbours canvas").count() == 8
        assert page.locator("#traversals .row").count() >= 1
        check_bounds(page, run.model)
    page.click("#prior")
    assert page.locator("#strip canvas").count() == 10


def test_what_is_decoded_lies_under_the_pointer(show, run_of):
    run = run_of(posterior="planar", num_flows=1, latent_dim=5)
    page = show(flowvae.explore(run).path)
    settled(page)
    under = """
      ([across, up, place]) => {
        const page = window.flowvaeExplorer;
        for (const [id, name] of [["first", across], ["second", up]]) {
          const select = document.getElementById(id);
          select.selectedIndex = [...select.options].findIndex((o) => o.text.startsWith(name));
          select.dispatchEvent(new Event("change"));
        }
        return [...page.map.onPlane(page.map.under(place))];
      }
    """
    for across, up in (("component 1", "component 2"), ("component 1", "z₁"), ("z₃", "z₂")):
        found = page.evaluate(under, [across, up, [0.5, -0.4]])
        assert found == pytest.approx([0.5, -0.4], abs=1e-5)
    chosen = page.evaluate(
        "[...document.getElementById('second').options].filter((o) => o.disabled).length"
    )
    assert chosen == 1
    # An axis has the numbers of z itself.
    page.evaluate(under, ["z₃", "z₂", [0.0, 0.0]])
    z, flat = page.evaluate(
        "[[...flowvaeExplorer.mean()], [...flowvaeExplorer.map.onPlane(flowvaeExplorer.mean())]]"
    )
    assert flat == pytest.approx([z[2], z[1]], abs=1e-6)


def test_questions_that_were_overtaken_are_not_answered(show, run_of):
    run = run_of(posterior="planar", num_flows=1, latent_dim=5)
    page = show(flowvae.explore(run).path)
    settled(page)
    answers = page.evaluate(
        """() => new Promise((resolve) => {
             const page = window.flowvaeExplorer;
             const heard = [];
             const hear = page.hear.bind(page);
             page.hear = (message) => {
               heard.push(message.id);
               hear(message);
               if (message.id === page.asked) resolve(heard.length);
             };
             for (let i = 0; i < 30; i++) page.ask();
           })"""
    )
    assert answers <= 2


def test_images_are_shown_over_their_range(show, run_of):
    run = run_of(posterior="planar", num_flows=1, likelihood="gaussian", scale=(-3.0, 5.0))
    page = show(flowvae.explore(run).path)
    settled(page)
    shape = page.evaluate("flowvaeExplorer.spec.shape")
    x = run.dataset.test.values()
    assert shape["low"] == pytest.approx(x.min().item(), abs=0.5)
    assert shape["high"] == pytest.approx(x.max().item(), abs=0.5)
    greys = page.evaluate(
        """() => {
             const canvas = document.getElementById("pad");
             const { width, height } = canvas;
             return new Set(canvas.getContext("2d").getImageData(0, 0, width, height).data).size;
           }"""
    )
    assert greys > 20
    assert not page.is_visible("#clear")


def check_bounds(page: Any, model: flowvae.VAE) -> None:
    """The bounds of 512 draws against PyTorch's of many more."""
    x = torch.tensor([page.evaluate("Array.from(flowvaeExplorer.x)")])
    found = page.evaluate("flowvaeExplorer.numbers")
    with torch.no_grad():
        weights = model.elbo_terms(x, 4000, torch.Generator().manual_seed(0)).log_weight[:, 0]
    error = weights.std().item() * (1 / 512 + 1 / 4000) ** 0.5
    assert found["elbo"] == pytest.approx(weights.mean().item(), abs=5 * error + 1e-3)
    assert found["elbo"] <= found["bound"]


@pytest.mark.parametrize(
    "settings",
    [
        {"posterior": "iaf", "num_flows": 2},
        {"posterior": "radial", "num_flows": 20},
        {"posterior": "full_gaussian"},
        {"posterior": "gaussian", "prior": "flow", "num_flows": 2},
        pytest.param(
            {"posterior": "gaussian", "network": "gated_conv", "channels": (4, 4)},
            marks=pytest.mark.slow,
        ),
        {"posterior": "sylvester_householder", "latent_dim": 4, "num_flows": 2},
    ],
    ids=lambda settings: "-".join(str(v) for v in settings.values()),
)
def test_other_families_are_shown_by_what_was_stored(show, run_of, settings):
    run = run_of(shape=(6, 5), **settings)
    page = show(flowvae.explore(run).path)
    assert "does not compute" in page.inner_text("#note")
    page.click("#examples button >> nth=2")
    settled(page)
    found = page.evaluate("flowvaeExplorer.numbers")
    index = torch.linspace(0, 59, 16).round().long()[2]
    x = run.dataset.test.values()[index][None]
    if run.model.latent_dim == 2:
        exact = quadrature(run.model, x)
        assert exact.kl is not None
        assert found["logProb"] == pytest.approx(exact.log_prob.item(), abs=0.01)
        assert found["kl"] == pytest.approx(exact.kl.item(), abs=0.01)
        page.click("#refine")
        assert "KL, refined" in page.inner_text("#numbers")
        check_truth(page, run.model, x)
    else:
        assert found["elbo"] <= found["bound"]
        assert page.locator("#traversals .row").count() >= 4


@torch.no_grad()
def check_truth(page: Any, model: flowvae.VAE, x: torch.Tensor) -> None:
    """The stored picture of p(z|x) is p(x, z), up to the width of a cell."""
    low, high, values = page.evaluate(
        """() => {
             const { low, high, values } = flowvaeExplorer.truthPicture();
             return [low, high, Array.from(values)];
           }"""
    )
    side = round(len(values) ** 0.5)
    axes = [torch.linspace(a, b, 2 * side + 1)[1::2] for a, b in zip(low, high, strict=True)]
    z = torch.cartesian_prod(*axes)
    exact = model.log_joint_pairs(x, z)[0]
    found = torch.tensor(values)
    near = exact > exact.max() - 3
    difference = (found - exact + exact.max())[near]
    assert difference.abs().median() < 0.3


def test_tables_show_bars_and_names_are_text(show, tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "table.csv"
    with file.open("w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow([NASTY, "b", "colour", "kind"])
        for z in rng.normal(size=200):
            kind = NASTY if z > 0 else "<img src=x onerror=alert(2)>"
            rows.writerow(
                [z, 2 * z + rng.normal(), ["red", NASTY, "blue"][int(2 * abs(z)) % 3], kind]
            )
    run = flowvae.train(
        data=str(file),
        label_column="kind",
        likelihood="mixed",
        hidden_dims=(16,),
        out=tmp_path / NASTY.replace("/", ""),
        epochs=3,
        evaluation_samples=4,
        progress=False,
    )
    page = show(flowvae.explore(run, out=tmp_path / "page.html").path)
    settled(page)
    assert page.inner_text("#legend").count("<") >= 2
    assert page.locator("script").count() == 4
    page.click("#examples button >> nth=1")
    assert page.is_visible("#plane-q")


def test_a_class_name_is_not_executed(show, run_of):
    run = run_of(posterior="planar", num_flows=1)
    object.__setattr__(run.dataset, "label_names", (NASTY, "<b>bold</b>", "&amp;"))
    page = show(flowvae.explore(run).path)
    assert page.inner_text("#legend").split("\n")[:1] == [NASTY]
    assert page.locator("#legend b").count() == 0


def test_in_a_notebook_it_stands_in_a_sandboxed_frame(browser, run_of, tmp_path):
    explorer = run_of(posterior="planar", num_flows=1).explore(out=tmp_path / "page.html")
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!DOCTYPE html><body>{explorer._repr_html_()}", encoding="utf-8")
    page = browser.new_page()
    page.goto(outer.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("body[data-settled=true]").wait_for(timeout=60_000)
    assert "nats" in frame.locator("#numbers").inner_text()
    page.close()


def test_nothing_is_written_where_the_data_cannot_be_had(tmp_path, run_of):
    run = run_of(posterior="planar", num_flows=1)
    with pytest.raises(flowvae.UserError, match="data"):
        flowvae.explore(run.path, out=tmp_path / "page.html", data=str(tmp_path / "none.npz"))
    assert not (tmp_path / "page.html").exists()


def test_one_test_datum_has_no_principal_components(tmp_path):
    pixels = images(20, (5, 4))
    data = Dataset.from_arrays(pixels[1:], pixels[:1])
    run = flowvae.train(
        dataset=data, out=tmp_path / "run", latent_dim=3, epochs=1, progress=False, finish=False
    )
    spec, _ = page_content(run)
    assert spec["directions"]["names"] == ["z₁", "z₂", "z₃"]
    assert spec["directions"]["components"] == 0


def test_the_page_holds_no_import(run_of):
    page = _page(run_of(posterior="planar", num_flows=1))
    assert "import {" not in page
    assert "{{" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_file_of_another_kind_is_not_overwritten(run_of):
    run = run_of(posterior="planar", num_flows=1)
    before = (run.path / "model.safetensors").read_bytes()
    with pytest.raises(flowvae.UserError, match=r"out: expected a file ending in .html"):
        flowvae.explore(run, out=run.path / "model.safetensors")
    assert (run.path / "model.safetensors").read_bytes() == before


def test_large_data_make_no_endless_page(run_of):
    run = run_of(shape=(64, 64, 3), posterior="radial", num_flows=1, latent_dim=4)
    assert flowvae.explore(run).path.stat().st_size < 12e6


def test_the_command(run_of, capsys):
    from flowvae.cli import main

    run = run_of(posterior="gaussian")
    with pytest.raises(SystemExit) as ended:
        main(["explore", str(Path(run.path)), "--no-open"])
    # Data that was in memory is not in the run: one line says what is missing.
    assert ended.value.code == 2
    assert "data" in capsys.readouterr().err


def test_values_beyond_one_are_no_bytes():
    for values, kind in (([0.0, 1.0, 128 / 255], "u1"), ([0.0, 1.0, 5.0], "f4"), ([-1.0], "f4")):
        arrays = Arrays()
        arrays.add_values(torch.tensor([values]))
        assert arrays.about[0]["type"] == kind

"""Pages of conditional runs, and of runs on data of which values are missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import flowvae
from flowvae.data import Column, Dataset, Split
from flowvae.data.conditions import encode_condition
from flowvae.evaluation import quadrature
from flowvae.explorer.content import page_content
from tests.explorer.conftest import images
from tests.explorer.test_live import NATS, at_noise, numbers, settled

LABEL = (Column("kind", "categorical", ("cat", "dog", "<b>bird</b>")),)
SEVERAL = (
    Column("age", "numeric", mean=40.0, scale=10.0),
    Column("sex", "binary", ("female", "male")),
)
PLANAR = {"posterior": "planar", "num_flows": 3}


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A short run whose images say one thing more than the condition does."""

    def trained(columns=LABEL, shape=(6, 5), missing=False, **settings: Any) -> flowvae.Run:
        pixels = torch.from_numpy(np.round(255 * images(240, shape)) / 255).float().flatten(1)
        kinds = torch.arange(240) % 3
        condition = None
        if columns is LABEL:
            pixels[:, :10] *= kinds[:, None] / 2
            condition = torch.eye(3)[kinds]
        elif columns:
            condition = torch.stack([torch.linspace(-2, 2, 240), (kinds > 0).float()], 1)
            pixels[:, :10] *= condition[:, 1:]
        if missing:
            settings["missing"] = "model"
            gaps = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)) < 0.3
            pixels = pixels.masked_fill(gaps, torch.nan)
        splits = [
            Split(
                pixels[part], kinds[part], condition=None if condition is None else condition[part]
            )
            for part in (slice(180), slice(180, 240))
        ]
        data = Dataset("images", *splits, shape, condition=columns)
        options = {"epochs": 8, "hidden_dims": (24,), "learning_rate": 3e-3, **settings}
        if settings.get("network") == "gated_conv":
            del options["hidden_dims"]
        return flowvae.train(
            dataset=data,
            out=tmp_path_factory.mktemp("run") / "run",
            evaluation_samples=4,
            progress=False,
            finish=False,
            **options,
        )

    return trained


def shown_row(page: Any, y: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.tensor([page.evaluate("Array.from(flowvaeExplorer.x)")]), y], 1).float()


@torch.no_grad()
def check_row(page: Any, model: flowvae.VAE, row: torch.Tensor) -> None:
    """q(z|x, y) by its flows, and the integrals."""
    q = model.posterior(row)
    eps = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    z, log_q = at_noise(page, eps, getattr(q, "num_flows", 0))
    sample = q.at_noise(eps[:, None])
    torch.testing.assert_close(z, sample.z[:, 0], atol=NATS, rtol=1e-4)
    expected = (sample.log_base - sample.ladj)[:, 0]
    torch.testing.assert_close(log_q, expected, atol=NATS, rtol=1e-4)
    exact = quadrature(model, row, tolerance=1e-4)
    assert exact.kl is not None
    found = numbers(page)
    assert found["logProb"] == pytest.approx(exact.log_prob.item(), abs=NATS)
    assert found["kl"] == pytest.approx(exact.kl.item(), abs=NATS)
    assert found["elbo"] == pytest.approx((exact.log_prob - exact.kl).item(), abs=NATS)


@torch.no_grad()
def check_decoded(page: Any, model: flowvae.VAE, y: torch.Tensor) -> None:
    """E[x|z, y] at the datum's mean, and at other places."""
    mean = torch.tensor([page.evaluate("Array.from(flowvaeExplorer.mean())")])
    found = torch.tensor([page.evaluate("Array.from(flowvaeExplorer.reconstructed)")])
    torch.testing.assert_close(found, model.decode(mean.float(), y).mean, atol=NATS, rtol=1e-3)
    z = torch.randn(7, model.latent_dim, generator=torch.Generator().manual_seed(3))
    flat = [float(v) for v in z.flatten()]
    values = page.evaluate(
        "(z) => Array.from(window.flowvaeExplorer.decode(Float64Array.from(z)))", flat
    )
    expected = model.decode(z, y).mean
    found = torch.tensor(values).reshape(expected.shape)
    torch.testing.assert_close(found, expected, atol=NATS, rtol=1e-3)


@torch.no_grad()
def check_prior(page: Any, model: flowvae.VAE, y: torch.Tensor) -> None:
    z = torch.randn(9, model.latent_dim, generator=torch.Generator().manual_seed(4))
    flat = [float(v) for v in z.flatten()]
    found = page.evaluate(
        "([z, n]) => Array.from(window.flowvaeExplorer.under.logPrior(Float64Array.from(z), n))",
        [flat, len(z)],
    )
    expected = model.prior_given(y[0]).log_prob(z)
    torch.testing.assert_close(torch.tensor(found), expected, atol=NATS, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {**PLANAR, "prior": "normal"},
        {"posterior": "gaussian", "prior": "gaussian_mixture", "num_components": 4},
        {"posterior": "gaussian", "likelihood": "gaussian", "gated": True},
    ],
    ids=lambda settings: "-".join(str(v) for v in settings.values()),
)
def test_under_each_class_the_page_agrees_with_pytorch(show, conditional, settings):
    run = conditional(**settings)
    model = run.model
    with torch.no_grad():  # what starts at zero is to matter
        for part in (*model.prior.parameters(), model.decoder.direct.weight):
            part.add_(0.3 * torch.randn(part.shape, generator=torch.Generator().manual_seed(0)))
    page = show(flowvae.explore(run).path)
    assert page.locator("#condition option").all_inner_texts() == list(LABEL[0].categories)
    eye = torch.eye(3)
    for index in (0, 1):
        page.click(f"#examples button >> nth={index}")
        code = page.evaluate("flowvaeExplorer.condition.code")
        assert page.locator("#condition select").input_value() == str(code)
        own = eye[code][None]
        row = shown_row(page, own)
        assert any(torch.equal(row[0], each) for each in run.dataset.test.rows())
        check_row(page, model, row)
        assert "log p(x|y)" in page.inner_text("#numbers")
        before = numbers(page)
        for other in range(3):
            page.select_option("#condition select", str(other))
            check_decoded(page, model, eye[other][None])
            check_prior(page, model, eye[other][None])
            # The datum, its encoding and its figures stay those of its own class.
            assert numbers(page) == before
    # What is drawn is encoded under the class that is chosen.
    page.focus("#pad")
    page.keyboard.press(" ")
    for other in (2, 0):
        page.select_option("#condition select", str(other))
        check_row(page, model, shown_row(page, eye[other][None]))
        check_decoded(page, model, eye[other][None])


def test_refinement_and_draws_are_under_the_condition(show, conditional):
    run = conditional(**PLANAR)
    page = show(flowvae.explore(run).path)
    page.click("#examples button >> nth=2")
    before = numbers(page)
    page.click("#refine")
    settled(page)
    assert page.evaluate("flowvaeExplorer.refined.elbo") <= before["logProb"] + NATS
    assert page.evaluate("flowvaeExplorer.refined.elbo") > before["elbo"] - 0.02
    page.click("#prior")
    strips = []
    for other in range(3):
        page.select_option("#condition select", str(other))
        strips.append(
            page.evaluate("[...document.querySelectorAll('#strip canvas')].map(c => c.toDataURL())")
        )
    assert len({str(each) for each in strips}) == 3
    page.select_option("#condition select", "0")
    z = torch.tensor(page.evaluate("Array.from(flowvaeExplorer.map.prior)")).reshape(10, 2)
    rows = page.evaluate("flowvaeExplorer.map.shown.rows.map((row) => Array.from(row))")
    with torch.no_grad():
        expected = run.model.decode(z.float(), torch.eye(3)[:1]).mean
    torch.testing.assert_close(torch.tensor(rows), expected, atol=NATS, rtol=1e-3)


def test_several_columns_have_a_control_each(show, conditional):
    run = conditional(SEVERAL, **PLANAR, prior="normal")
    page = show(flowvae.explore(run).path)
    check_row(page, run.model, shown_row(page, run.dataset.test.condition[:1]))
    page.locator("#condition input").fill("55")
    page.locator("#condition input").dispatch_event("change")
    page.select_option("#condition select", label="male")
    y = encode_condition(SEVERAL, {"age": 55, "sex": "male"})
    check_decoded(page, run.model, y)
    check_prior(page, run.model, y)
    page.locator("#condition input").fill("")
    page.locator("#condition input").dispatch_event("change")
    assert page.locator("#condition input").input_value() == "55"


def test_in_other_dimensions(show, conditional):
    run = conditional(**PLANAR, latent_dim=4)
    page = show(flowvae.explore(run).path)
    settled(page)
    page.click("#examples button >> nth=1")
    settled(page)
    code = page.evaluate("flowvaeExplorer.condition.code")
    row = shown_row(page, torch.eye(3)[code][None])
    with torch.no_grad():
        terms = run.model.elbo_terms(row, 4000, torch.Generator().manual_seed(0))
    weights = terms.log_weight[:, 0]
    error = weights.std().item() * (1 / 512 + 1 / 4000) ** 0.5
    assert numbers(page)["elbo"] == pytest.approx(weights.mean().item(), abs=5 * error + 1e-3)
    seen = page.evaluate("document.querySelector('#traversals canvas').toDataURL()")
    page.select_option("#condition select", str((code + 1) % 3))
    assert page.evaluate("document.querySelector('#traversals canvas').toDataURL()") != seen
    check_decoded(page, run.model, torch.eye(3)[(code + 1) % 3][None])


@pytest.mark.parametrize(
    "settings",
    [
        {"posterior": "iaf", "num_flows": 2},
        {"posterior": "gaussian", "prior": "flow", "num_prior_flows": 2},
        {"posterior": "gaussian", "network": "gated_conv", "channels": (4, 4), "latent_dim": 3},
    ],
    ids=lambda settings: "-".join(str(v) for v in settings.values()),
)
def test_what_is_stored_is_under_each_class(show, conditional, settings):
    run = conditional(**settings)
    model, eye = run.model, torch.eye(3)
    page = show(flowvae.explore(run).path)
    assert "does not compute" in page.inner_text("#note")
    page.click("#examples button >> nth=2")
    settled(page)
    code = page.evaluate("flowvaeExplorer.condition.code")
    row = shown_row(page, eye[code][None])
    found = page.evaluate("flowvaeExplorer.numbers")
    if model.latent_dim == 2:
        exact = quadrature(model, row)
        assert exact.kl is not None
        assert found["logProb"] == pytest.approx(exact.log_prob.item(), abs=0.01)
        assert found["kl"] == pytest.approx(exact.kl.item(), abs=0.01)
    mean = torch.tensor([page.evaluate("Array.from(flowvaeExplorer.mean())")])
    for other in range(3):
        page.select_option("#condition select", str(other))
        with torch.no_grad():
            expected = model.decode(mean, eye[other][None]).mean
            own = model.sample(10, torch.Generator().manual_seed(0), condition=eye[other][None])
        shown = torch.tensor([page.evaluate("Array.from(flowvaeExplorer.reconstructed)")])
        torch.testing.assert_close(shown, expected, atol=0.003, rtol=0)  # bytes
        page.click("#prior")
        rows = torch.tensor(
            page.evaluate("flowvaeExplorer.map.shown.rows.map((row) => Array.from(row))")
        )
        torch.testing.assert_close(rows, own, atol=0.003, rtol=0)
        if model.latent_dim == 2:
            place = page.evaluate(
                """() => {
                     const { side, low, high } = flowvaeExplorer.model.stored.decoded;
                     return low.map((v, i) => v + ((high[i] - v) * (3 + i + 0.5)) / side);
                   }"""
            )
            got = page.evaluate("(z) => Array.from(window.flowvaeExplorer.decode(z))", place)
            with torch.no_grad():
                expected = model.decode(torch.tensor([place]), eye[other][None]).mean[0]
            torch.testing.assert_close(torch.tensor(got), expected, atol=0.003, rtol=0)


def test_missing_values_are_shown_by_what_was_stored(show, conditional):
    run = conditional(None, missing=True, **PLANAR)
    page = show(flowvae.explore(run).path)
    assert "This run has values that may be missing" in page.inner_text("#note")
    assert "the values that are there" in page.inner_text("#measure")
    page.click("#examples button >> nth=1")
    settled(page)
    row = torch.tensor([page.evaluate("Array.from(flowvaeExplorer.x, (v) => v)")]).float()
    assert row.isnan().any()
    exact = quadrature(run.model, row)
    found = page.evaluate("flowvaeExplorer.numbers")
    assert found["logProb"] == pytest.approx(exact.log_prob.item(), abs=0.01)
    colours = page.evaluate(
        """() => {
             const canvas = document.getElementById("pad");
             const { width, height } = canvas;
             const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
             const differs = (_, p) => data[4 * p] !== data[4 * p + 2];
             return Array.from({ length: data.length / 4 }, differs);
           }"""
    )
    assert colours == row[0].isnan().tolist()


@pytest.mark.parametrize("columns", [SEVERAL, LABEL])
def test_both_at_once_and_no_plane_without_classes(show, conditional, columns):
    run = conditional(columns, missing=True, shape=(30,), **PLANAR)
    page = show(flowvae.explore(run).path)
    settled(page)
    classes = columns is LABEL
    assert page.is_visible("#condition") == classes
    assert page.is_visible("#decoded") == classes
    assert ("under its own condition" in page.inner_text("#note")) != classes
    page.click("#prior")
    assert page.locator("#strip canvas").count() == 10
    assert ("of a test datum" in page.inner_text("#strip-name")) != classes


def test_a_condition_that_is_not_known_is_one_line(conditional):
    run = conditional(**PLANAR)
    run.dataset.test.condition[3] = torch.nan
    with pytest.raises(flowvae.UserError, match="condition: expected .* got none for 1 of 60"):
        page_content(run)

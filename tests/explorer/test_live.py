"""The model in the page against PyTorch: posteriors, flows, bounds and integrals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import flowvae
from flowvae.evaluation import quadrature
from flowvae.refined import RefinedVAE

NATS = 1e-3


def settled(page: Any) -> None:
    page.wait_for_selector("body[data-settled=true]", timeout=60_000)


def numbers(page: Any) -> dict[str, float]:
    settled(page)
    return page.evaluate("flowvaeExplorer.numbers")


def shown_x(page: Any) -> torch.Tensor:
    return torch.tensor([page.evaluate("Array.from(flowvaeExplorer.x)")]).float()


def at_noise(page: Any, eps: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    flat = [float(v) for v in eps.flatten()]
    found = page.evaluate(
        """([eps, k]) => {
             const { z, logQ } = flowvaeExplorer.q.atNoise(Float64Array.from(eps), k);
             return [Array.from(z), Array.from(logQ)];
           }""",
        [flat, k],
    )
    return torch.tensor(found[0]).reshape(eps.shape), torch.tensor(found[1])


@torch.no_grad()
def check_posterior(page: Any, model: flowvae.VAE) -> None:
    """μ, log σ², every z_k and log q_k of the datum that is shown."""
    q = model.posterior(shown_x(page))
    base = getattr(q, "base", q)
    loc, log_var = page.evaluate("[flowvaeExplorer.q.loc, flowvaeExplorer.q.logVar]")
    torch.testing.assert_close(torch.tensor([loc]), base.loc, atol=NATS, rtol=1e-4)
    torch.testing.assert_close(torch.tensor([log_var]), base.log_var, atol=NATS, rtol=1e-4)
    eps = torch.randn(40, model.latent_dim, generator=torch.Generator().manual_seed(0))
    for k in range(getattr(q, "num_flows", 0) + 1):
        sample = (q.first(k) if k else base).at_noise(eps[:, None])
        z, log_q = at_noise(page, eps, k)
        torch.testing.assert_close(z, sample.z[:, 0], atol=NATS, rtol=1e-4)
        expected = (sample.log_base - sample.ladj)[:, 0]
        torch.testing.assert_close(log_q, expected, atol=NATS, rtol=1e-4)


def check_integrals(page: Any, model: flowvae.VAE) -> None:
    exact = quadrature(model, shown_x(page), tolerance=1e-4)
    assert exact.kl is not None
    found = numbers(page)
    assert found["logProb"] == pytest.approx(exact.log_prob.item(), abs=NATS)
    assert found["kl"] == pytest.approx(exact.kl.item(), abs=NATS)
    assert found["elbo"] == pytest.approx((exact.log_prob - exact.kl).item(), abs=NATS)


PLANAR = {"posterior": "planar", "num_flows": 4}


def test_ten_images_and_a_drawn_one_agree_with_pytorch(show, run_of):
    run = run_of(**PLANAR)
    page = show(flowvae.explore(run).path)
    for index in range(10):
        page.click(f"#examples button >> nth={index}")
        torch.testing.assert_close(
            shown_x(page)[0],
            run.dataset.test.values()[torch.linspace(0, 59, 60).round().long()[index]],
        )
        check_posterior(page, run.model)
        check_integrals(page, run.model)

    page.click("#clear")
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.6 * box["height"], steps=5)
    page.mouse.up()
    x = shown_x(page)
    assert 0.05 < x.mean().item() < 0.5
    assert page.locator("#examples button[aria-pressed=true]").count() == 0
    check_posterior(page, run.model)
    check_integrals(page, run.model)


@pytest.mark.parametrize(
    "settings",
    [
        {
            **PLANAR,
            "constraint": "centred",
            "standardized": True,
            "bound": 1.0,
            "activation": "leaky_relu",
        },
        {**PLANAR, "amortized": False, "hidden_dims": (12, 10), "activation": "tanh"},
        {"posterior": "gaussian", "likelihood": "gaussian", "gated": True},
        {"posterior": "gaussian", "prior": "vampprior", "num_components": 5, "activation": "gelu"},
        {**PLANAR, "prior": "gaussian_mixture", "num_components": 4, "activation": "silu"},
        {**PLANAR, "num_flows": 0, "activation": "elu", "binarization": "threshold"},
    ],
    ids=lambda settings: "-".join(str(v) for v in settings.values()),
)
def test_every_part_that_the_page_computes_agrees(show, run_of, settings):
    run = run_of(shape=(5, 6), **settings)
    page = show(flowvae.explore(run).path)
    for index in (0, 7):
        page.click(f"#examples button >> nth={index}")
        check_posterior(page, run.model)
        check_integrals(page, run.model)


def test_refinement_reaches_what_pytorch_reaches(show, run_of):
    run = run_of(**PLANAR)
    page = show(flowvae.explore(run).path)
    before = numbers(page)
    page.click("#refine")
    settled(page)
    assert page.inner_text("#refine-step") == "step 6 of 6"
    exact = quadrature(RefinedVAE(run.model), shown_x(page)).kl
    assert exact is not None
    after = before["logProb"] - page.evaluate("flowvaeExplorer.refined.elbo")
    assert after == pytest.approx(exact.item(), abs=0.02)
    assert after < before["kl"]
    assert "KL, refined" in page.inner_text("#numbers")


def picture(page: Any, name: str) -> str:
    page.wait_for_timeout(60)  # the next frame
    return page.evaluate(f"document.getElementById('{name}').toDataURL()")


def test_what_one_touches_answers(show, run_of):
    page = show(flowvae.explore(run_of(**PLANAR)).path)
    settled(page)
    seen = [picture(page, "plane-q")]
    for name, value in (("layer", "0"), ("layer", "2"), ("samples", "300")):
        page.fill(f"#{name}", value)
        seen.append(picture(page, "plane-q"))
    for name in ("grid", "outline", "whole"):
        page.click(f"#{name}")
        seen.append(picture(page, "plane-q"))
    assert len(set(seen)) == len(seen)
    assert page.inner_text("#q-name") == "q after 2 of 4"

    decoded = [picture(page, "preview")]
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.2 * box["height"])
    decoded.append(picture(page, "preview"))
    page.focus("#map")
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    decoded.append(picture(page, "preview"))
    assert len(set(decoded)) == 3

    page.click("#from")
    page.click("#examples button >> nth=5")
    page.click("#to")
    assert page.locator("#strip canvas").count() == 9
    page.click("#prior")
    assert page.locator("#strip canvas").count() == 10
    page.focus("#pad")
    before = shown_x(page)
    page.keyboard.press(" ")
    assert not torch.equal(shown_x(page), before)


def test_light_and_dark(show, run_of):
    file = flowvae.explore(run_of(**PLANAR)).path
    grounds = []
    for scheme in ("light", "dark"):
        page = show(file, color_scheme=scheme)
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.click("#theme")
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] == grounds[3] != grounds[1] == grounds[2]


def test_a_finger_draws(show, run_of):
    page = show(flowvae.explore(run_of(**PLANAR)).path, has_touch=True)
    before = shown_x(page)
    box = page.locator("#pad").bounding_box()
    page.touchscreen.tap(box["x"] + 0.1 * box["width"], box["y"] + 0.9 * box["height"])
    assert not torch.equal(shown_x(page), before)

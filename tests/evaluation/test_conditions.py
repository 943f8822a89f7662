"""Evaluations of conditional runs: what they depend on, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import flowvae
from flowvae import UserError
from flowvae.config import resolve_config
from flowvae.data import Column, Dataset, Split
from flowvae.data.conditions import conditioned
from flowvae.evaluation import FullSettings, data_digest
from flowvae.runs import Run

SMALL = FullSettings(
    samples=5, count=20, mixture_count=2, quadrature_count=1, ais_count=1, ais_chains=2,
    ais_temperatures=2, bdmc_count=1, gap_count=1, gap_steps=1, refine_count=1,
    information_count=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def pixels() -> Dataset:
    rng = np.random.default_rng(0)
    x, labels = rng.random((80, 6, 5)), np.arange(80) % 2
    return Dataset.from_arrays(x[:60], x[60:], labels[:60], labels[60:])


def run_on(data: Dataset, folder: Any, **settings: Any) -> Run:
    return flowvae.train(
        "gaussian", dataset=data, out=folder, epochs=1, hidden_dims=(8,), evaluation_samples=2,
        progress=False, finish=False, **settings,
    )  # fmt: skip


def with_labels(data: Dataset, labels: torch.Tensor) -> Dataset:
    return conditioned(replace(data, test=replace(data.test, labels=labels)), ("labels",))


def test_what_was_found_under_other_labels_is_not_used_again(pixels, tmp_path):
    run = run_on(pixels, tmp_path / "run", condition="labels")
    assert pixels.test.labels is not None
    other = Run(run.path, run.config, run.model, with_labels(pixels, 1 - pixels.test.labels))
    found = [
        flowvae.evaluate_full(each, SMALL, progress=False).per_datum["importance"]["iw_bound"]
        for each in (run, other, run)
    ]
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_more_data_are_simulated_than_there_are_test_data(pixels, tmp_path):
    """Their conditions are those of the test data in turn."""
    run = run_on(pixels, tmp_path / "run", condition="labels")
    settings = replace(SMALL, bdmc_count=31)
    found = flowvae.evaluate_full(run, settings, progress=False).per_datum["bdmc"]
    assert len(pixels.test) == 20
    assert len(found["lower"]) == len(found["upper"]) == 31


def test_a_digest_is_of_the_condition_too_and_of_nothing_new_without():
    x, y = torch.rand(4, 3), torch.eye(2)[[0, 1, 0, 1]]
    plain, first, second = Split(x), Split(x, condition=y), Split(x, condition=1 - y)
    assert len({data_digest(split) for split in (plain, first, second)}) == 3
    assert data_digest(first) == data_digest(Split(x.clone(), condition=y.clone()))


def test_a_label_that_is_not_known_is_said_wherever_z_is_of_it(pixels, tmp_path):
    run = run_on(pixels, tmp_path / "run", condition="labels")
    labels = pixels.test.labels.clone()
    labels[:7] = -1
    gaps = Run(run.path, run.config, run.model, with_labels(pixels, labels))
    out = tmp_path / "z.csv"
    for call in (
        lambda: flowvae.evaluate(gaps, 2, progress=False),
        lambda: flowvae.evaluate_full(gaps, progress=False),
        lambda: flowvae.compare(gaps, gaps, samples=2, progress=False),
        lambda: flowvae.encode(gaps, out=out),
        lambda: flowvae.reconstruct(gaps, 4),
    ):
        with pytest.raises(UserError, match="label for each of the test data, got none for 7 of 2"):
            call()
    assert not out.exists()


def test_log_p_of_x_given_y_is_not_compared_with_log_p_of_x(pixels, tmp_path):
    given = run_on(pixels, tmp_path / "given", condition="labels")
    plain = run_on(pixels, tmp_path / "plain")
    with pytest.raises(UserError, match=r"differ in condition: none and label \(2 classes\)"):
        flowvae.compare(given, plain, samples=2, progress=False)


def test_log_p_with_the_mask_is_told_and_not_compared_with_log_p_without(pixels, tmp_path):
    masked = run_on(pixels, tmp_path / "s", missing="model", missingness="self_masking")
    plain = run_on(pixels, tmp_path / "plain", missing="model")
    assert flowvae.evaluate(masked, 2, progress=False).of == "log p(x_obs, s)"
    both = flowvae.compare(masked, masked, samples=2, progress=False).to_markdown()
    assert "log p(x) is log p(x_obs, s)" in both
    with pytest.raises(UserError, match="differ in missingness: at_random and self_masking"):
        flowvae.compare(masked, plain, samples=2, progress=False)


@pytest.mark.parametrize("missing", ["refuse", "model"])
def test_the_classifier_sees_counts_as_the_encoder_does(missing):
    label = [Column("label", "categorical", ("a", "b"))]
    config = resolve_config(likelihood="poisson", objective="m2", hidden_dims=(8,), missing=missing)
    model = flowvae.build_vae(config, (3,), condition=label)
    assert model.classifier is not None
    seen: list[torch.Tensor] = []
    for module in (model.encoder, model.classifier):
        first = next(m for m in module.modules() if isinstance(m, torch.nn.Linear))
        first.register_forward_pre_hook(lambda _, x: seen.append(x[0][:, :3].clone()))
    x = torch.tensor([[0.0, 4.0, 1000.0]])
    model.posterior(x, "a")
    model.classifier(x)
    torch.testing.assert_close(seen[0], x.log1p())
    torch.testing.assert_close(seen[1], seen[0])

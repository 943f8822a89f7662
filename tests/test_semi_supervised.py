"""Learning from labels that are partly missing: M2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Batches, Column, Dataset, Split
from flowvae.data.conditions import conditioned
from flowvae.errors import UserError
from flowvae.semi_supervised import M2, classifier_accuracy
from flowvae.training import Trainer
from tests.helpers.conditional_gaussian import ConditionalGaussian


def rows_of(truth: ConditionalGaussian, labels: list[int | None]):
    """Rows of data with these labels, None where there is none."""
    every = torch.eye(truth.C, dtype=torch.float64)
    unknown = torch.full((truth.C,), math.nan, dtype=torch.float64)
    x, _ = truth.data(len(labels))
    x[0, 1] = math.nan
    y = torch.stack([unknown if label is None else every[label] for label in labels])
    return x, torch.cat([x, y], 1)


def test_bounds_are_exact_where_both_posteriors_are():
    """U(x) = log p(x) = log Σ_y p(x|y)/K and L(x, y) = log p(x|y)/K."""
    truth = ConditionalGaussian()
    model = truth.model(classes=True)
    labels = [0, None, 2, None, None]
    x, rows = rows_of(truth, labels)
    objective = M2(samples=3, alpha=2.0)
    loss, terms = objective(model, rows, torch.Generator().manual_seed(0))
    each = truth.log_prob_of_classes(x) - math.log(3)
    pairs = zip(each, labels, strict=True)
    expected = torch.stack([r.logsumexp(0) if n is None else r[n] for r, n in pairs])
    for got in terms.log_weight:
        torch.testing.assert_close(got, expected)
    right = each.log_softmax(1)[0, 0] + each.log_softmax(1)[2, 2]
    torch.testing.assert_close(loss, -(expected.sum() + 2.0 * right) / 5)
    report = objective.report()
    assert report["labelled_elbo"] == pytest.approx(expected[[0, 2]].mean().item(), rel=1e-5)
    assert report["unlabelled_elbo"] == pytest.approx(expected[[1, 3, 4]].mean().item(), rel=1e-5)
    assert report["classification"] == pytest.approx(right.item() / 2, rel=1e-5)


def test_unlabelled_bound_is_the_sum_over_classes_less_the_kl_of_the_classifier():
    """log p(x) - U = Σ_y q(y|x) [log q(y|x) - log p(y|x)] where q(z|x, y) is exact."""
    truth = ConditionalGaussian()
    model = truth.model(classes=True)
    x, rows = rows_of(truth, [None] * 6)
    assert model.classifier is not None
    with torch.no_grad():
        next(model.classifier.parameters()).fill_(0.4)
    log_q = (0.4 * truth.log_prob_of_classes(x)).log_softmax(1)
    log_p = truth.log_prob_of_classes(x).log_softmax(1)
    kl = (log_q.exp() * (log_q - log_p)).sum(1)
    log_prob = truth.log_prob_of_classes(x).logsumexp(1) - math.log(3)
    _, terms = M2()(model, rows, torch.Generator().manual_seed(0))
    torch.testing.assert_close(terms.log_weight[0], log_prob - kl)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (25, 0.25), (100, 1.0), (1000, 1.0)])
def test_the_ramp_scales_the_gradient_of_the_unlabelled_alone(step, share):
    truth = ConditionalGaussian()
    model = truth.model(classes=True)
    assert model.classifier is not None
    heat = next(model.classifier.parameters())
    with torch.no_grad():
        heat.fill_(0.4)

    def gradient(labels: list[int | None], ramp: int):
        _, rows = rows_of(truth, labels)
        loss, _ = M2(ramp=ramp)(model, rows, torch.Generator().manual_seed(0), step)
        return loss, torch.autograd.grad(loss, heat)[0]

    for labels, factor in (([None] * 4, share), ([0, 1, 2, 0], 1.0)):
        plain, whole = gradient(labels, 0)
        loss, found = gradient(labels, 100)
        torch.testing.assert_close(loss, plain)
        torch.testing.assert_close(found, factor * whole)


def test_labelled_data_beside_a_batch_do_not_count_for_the_bound():
    """Five with a label, two of them beside the batch: each has 3/5 of the weight in the loss."""
    truth = ConditionalGaussian()
    model = truth.model(classes=True)
    _, rows = rows_of(truth, [0, None, 2, None, 1, 1, 2])

    def loss_and_bound(**options: Any):
        loss, terms = M2(alpha=0.0, **options)(model, rows, torch.Generator().manual_seed(0))
        return loss, terms.log_weight[0]

    loss, bound = loss_and_bound(labelled_batch=2)
    weight = torch.tensor([0.6, 1, 0.6, 1, 0.6, 0.6, 0.6], dtype=torch.float64)
    torch.testing.assert_close(loss, -(weight * bound).mean())
    torch.testing.assert_close(loss_and_bound()[0], -bound.mean())
    without = bound[[1, 3]].sum()
    torch.testing.assert_close(loss_and_bound(labelled_batch=5)[0], -without / 7)
    torch.testing.assert_close(loss_and_bound(labelled_batch=9)[0], -without / 7)


@pytest.mark.parametrize("missing", [False, True])
def test_the_classifier_alone_sees_less_in_training(missing):
    """Dropout changes q(y|x), not the bounds under each class."""
    truth = ConditionalGaussian()
    model = truth.model(classes=True)
    model.missing = missing
    x, _ = truth.data(200)
    unknown = torch.full((200, truth.C), math.nan, dtype=torch.float64)
    rows = torch.cat([x, unknown], 1)
    given: list[torch.Tensor] = []
    assert model.classifier is not None
    model.classifier.register_forward_hook(lambda _, inputs, __: given.append(inputs[0]))
    M2(classifier_dropout=0.25)(model, rows, torch.Generator().manual_seed(0))
    (seen,) = given
    gone = seen.isnan() if missing else seen == 0
    assert 0.2 < gone.double().mean() < 0.3
    kept = x if missing else x / 0.75
    torch.testing.assert_close(seen[~gone], kept[~gone])


def test_accuracy_is_that_of_a_network_without_dropout():
    """What a user's own classifier drops in training it does not drop in tests."""
    truth = ConditionalGaussian()
    model = truth.model(classes=True)
    assert model.classifier is not None
    x, _ = truth.data(300)
    y = torch.eye(truth.C, dtype=torch.float64)[truth.log_prob_of_classes(x).argmax(1)]
    model.classifier = torch.nn.Sequential(model.classifier, torch.nn.Dropout(0.9))
    model.train()
    assert classifier_accuracy(model, Split(x, condition=y)) == 1
    assert model.training


def test_every_batch_has_labelled_data_beside_its_own_each_equally_often():
    known = torch.eye(3)[torch.arange(10) % 3]
    known[4:] = math.nan
    split = Split(torch.arange(10.0)[:, None], condition=known)
    batches = Batches(split, 4, torch.Generator().manual_seed(0), labelled=2)
    whole = list(batches)
    assert [len(x) for x in whole] == [6, 6, 4]
    own = torch.cat([x[:-2, 0] for x in whole])
    assert sorted(own.tolist()) == list(range(10))
    beside = torch.cat([x[-2:] for x in whole])
    assert not beside.isnan().any()
    assert sorted(beside[:4, 0].tolist()) == [0, 1, 2, 3]
    # Skipped batches are the same ones.
    again = list(Batches(split, 4, torch.Generator().manual_seed(0), labelled=2).skipping(1))
    for mine, wanted in zip(again, whole[1:], strict=True):
        assert torch.equal(mine.nan_to_num(-1), wanted.nan_to_num(-1))


def two_clusters(count: int, seed: int = 0) -> Dataset:
    """Two classes of 6 values that are far apart."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    centre = np.where(labels, 0.8, 0.2)[:, None]
    x = np.clip(centre + 0.1 * generator.standard_normal((count, 6)), 0, 1).astype(np.float32)
    half = count // 2
    return Dataset.from_arrays(x[:half], x[half:], labels[:half], labels[half:])


def test_it_learns_classes_from_four_labels_and_reports_both_parts(tmp_path):
    data = two_clusters(600)
    run = flowvae.train(
        "gaussian", dataset=data, out=tmp_path / "run", objective="m2", condition="labels",
        labelled=4, labelled_batch=4, hidden_dims=(16,), epochs=15, batch_size=30,
        evaluation_samples=4, progress=False, finish=False,
    )  # fmt: skip
    last = run.metrics[-1]
    assert last["test_accuracy"] > 0.98
    assert last["train_labelled_elbo"] != last["train_unlabelled_elbo"]
    again = flowvae.load(run.path)
    test = conditioned(data, ("labels",), again.condition).test
    assert classifier_accuracy(again, test) == pytest.approx(last["test_accuracy"])


def test_a_run_that_was_stopped_in_an_epoch_goes_on_as_if_it_had_not(tmp_path):
    data = conditioned(two_clusters(200), ("labels",), labelled=10)
    config = resolve_config(
        objective="m2", hidden_dims=(8,), batch_size=10, labelled_batch=3, num_flows=1
    )

    def trainer() -> Trainer:
        model = flowvae.build_vae(config, data.data_shape, condition=data.condition)
        return Trainer(model, data, config.training, config.objective, config.seed)

    whole, first = trainer(), trainer()
    for _ in whole.steps():
        pass
    for number, _ in enumerate(first.steps(), 1):
        if number == 4:
            break
    first.save(tmp_path / "state.safetensors")
    second = trainer()
    second.load(tmp_path / "state.safetensors")
    for _ in second.steps():
        pass
    assert second.objective.report() == whole.objective.report()
    for mine, wanted in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, wanted)


def test_what_is_wrong_is_named():
    data = two_clusters(40)
    with pytest.raises(UserError, match="labelled: expected a multiple of the 2 classes"):
        conditioned(data, ("labels",), labelled=3)
    with pytest.raises(UserError, match="labelled: expected at most"):
        conditioned(data, ("labels",), labelled=1000)
    with pytest.raises(UserError, match="labelled: expected condition=labels beside it"):
        conditioned(data, (), labelled=4)
    with pytest.raises(UserError, match="objective: m2 needs classes to learn"):
        flowvae.build_vae(resolve_config(objective="m2"), (6,))
    number = [Column("age", "numeric")]
    with pytest.raises(UserError, match="objective: m2 needs classes to learn"):
        flowvae.build_vae(resolve_config(objective="m2"), (6,), condition=number)
    with pytest.raises(ValueError, match="classifier_dropout: expected a number in"):
        M2(classifier_dropout=1.0)
    with pytest.raises(ValueError, match="alpha: expected a finite number of at least 0, got nan"):
        M2(alpha=math.nan)
    with pytest.raises(UserError, match="condition: expected a label for each of the train data"):
        flowvae.train("gaussian", dataset=data, condition="labels", labelled=4, progress=False)

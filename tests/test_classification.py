"""Classification by Bayes' rule: against closed forms, and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import flowvae
from flowvae.classification import (
    class_frequencies,
    class_log_probs,
    classify_split,
    log_class_prior,
    log_posterior,
)
from flowvae.data import Column, Dataset, Split
from flowvae.data.conditions import conditioned
from flowvae.errors import UserError
from flowvae.scores import scores
from tests.helpers.linear_gaussian import LinearGaussian
from tests.helpers.making import call, seeded

K, SHIFT = 3, 1.5


class _WithoutClass(torch.nn.Module):
    """Values, less what the class adds to them, for an encoder; or what is added, for a decoder."""

    def __init__(self, body: torch.nn.Module, width: int, sign: int) -> None:
        super().__init__()
        self.body, self.width, self.sign = body, width, sign

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        values, one_hot = rows.split([self.width, K], -1)
        number = (one_hot * torch.arange(K, dtype=rows.dtype)).sum(-1, keepdim=True)
        if self.sign < 0:
            return self.body(values - SHIFT * number)
        return self.body(values) + SHIFT * number


def linear_classes(widen: float = 1.3) -> tuple[LinearGaussian, flowvae.VAE]:
    """x = W z + c + 1.5 y + σ ε for y = 0, 1, 2; q is right but for its width."""
    truth = LinearGaussian(D=2, P=4)
    model = truth.model(widen=widen)
    model.condition = (Column("label", "categorical", ("a", "b", "c")),)
    model.encoder = _WithoutClass(model.encoder, 4, -1)
    model.decoder = _WithoutClass(model.decoder, 2, +1)
    return truth, model


def exact(truth: LinearGaussian, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([truth.marginal.log_prob(x - SHIFT * k) for k in range(K)], 1)


def labelled(truth: LinearGaussian, count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(K, (count,), generator=seeded(3))
    return truth.data(count) + SHIFT * labels[:, None], labels


def test_log_p_of_every_class_is_the_closed_form():
    truth, model = linear_classes()
    x, _ = labelled(truth, 50)
    found = class_log_probs(model, x, 4000, seeded())
    torch.testing.assert_close(found, exact(truth, x), atol=0.06, rtol=0)
    _, right = linear_classes(widen=1.0)  # where q is p(z|x, y) one draw is enough
    torch.testing.assert_close(class_log_probs(right, x, 1), exact(truth, x), atol=1e-9, rtol=0)


def test_what_bayes_rule_says_is_what_the_closed_form_says():
    truth, model = linear_classes(widen=1.0)
    x, labels = labelled(truth)
    prior = [0.2, 0.5, 0.3]
    one_hot = torch.eye(K, dtype=torch.float64)[labels]
    split = Split(x, labels, condition=one_hot)
    done: list[int] = []
    found = classify_split(model, split, 2, prior=prior, advance=done.append)
    joint = exact(truth, x) + torch.tensor(prior, dtype=torch.float64).log()
    torch.testing.assert_close(found.probabilities, joint.softmax(1), atol=1e-8, rtol=0)
    right = (joint.argmax(1) == labels).double().mean().item()
    assert found.bayes is not None
    assert found.log_prob_given_class is not None
    assert found.bayes.accuracy.mean == pytest.approx(right)
    assert found.log_prob.mean == pytest.approx(joint.logsumexp(1).mean().item())
    own = exact(truth, x).gather(1, labels[:, None]).mean().item()
    assert found.log_prob_given_class.mean == pytest.approx(own)
    log_p = joint.log_softmax(1).gather(1, labels[:, None])
    assert found.bayes.log_prob.mean == pytest.approx(log_p.mean().item())
    assert found.bayes.log_prob.standard_error == pytest.approx(log_p.std().item() / 300**0.5)
    assert sum(done) == 300 * K
    assert found.classifier is None
    # Data of the model under its own prior is as often right as it is sure of.
    assert found.bayes.calibration_error < 0.1


def test_seeds_and_batches():
    truth, model = linear_classes()
    x, labels = labelled(truth, 30)
    split = Split(x, labels)
    first, again = (classify_split(model, split, 3, seed=5).log_probs for _ in range(2))
    assert (first == again).all()
    assert (classify_split(model, split, 3, seed=6).log_probs != first).all()
    # All classes have the same noise: here q differs by a shift alone, and so does nothing else.
    shifted = class_log_probs(model, x + SHIFT, 3, seeded(5))
    same = class_log_probs(model, x, 3, seeded(5))
    torch.testing.assert_close(shifted[:, 1:], same[:, :-1])
    rows = torch.cat([x, torch.full((30, K), torch.nan, dtype=x.dtype)], 1)
    torch.testing.assert_close(class_log_probs(model, rows, 3, seeded(5)), same)
    with pytest.raises(UserError, match=r"x: expected values \(B, 4\)"):
        class_log_probs(model, x[:, :3])


def test_data_without_labels_are_classified_and_not_scored():
    truth, model = linear_classes()
    x, labels = labelled(truth, 20)
    unknown = torch.full((20, K), torch.nan, dtype=x.dtype)
    found = classify_split(model, Split(x, condition=unknown), 3)
    assert (found.labelled, found.bayes, found.log_prob_given_class) == (0, None, None)
    assert "nothing to score" in str(found)
    unknown[:5] = torch.eye(K, dtype=x.dtype)[labels[:5]]
    assert classify_split(model, Split(x, condition=unknown), 3).labelled == 5


def test_scores_by_hand():
    first = torch.tensor([0.93, 0.93, 0.64, 0.27, 0.52, 1.0], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 0, 0])
    found = scores(torch.stack([first, 1 - first], 1).log(), labels, bins=10)
    assert found.accuracy.mean == pytest.approx(5 / 6)
    wrong = np.array([0.07, 0.93, 0.36, 0.27, 0.48, 0.0])
    assert found.brier == pytest.approx((2 * wrong**2).mean())
    assert found.log_prob.mean == pytest.approx(np.log(1 - wrong).mean())
    # A bin holds its upper edge: 1.0 is in the last, beside both 0.93, of which one is wrong.
    assert [row["count"] for row in found.bins] == [0, 0, 0, 0, 0, 1, 1, 1, 0, 3]
    assert found.bins[9]["confidence"] == pytest.approx(2.86 / 3)
    assert found.bins[9]["accuracy"] == pytest.approx(2 / 3)
    assert found.calibration_error == pytest.approx((0.86 + 0.36 + 0.27 + 0.48) / 6)
    assert found.confusion == [[4, 0], [1, 1]]
    assert found.mistaken(["cat", "dog"]) == "dog as cat (1)"
    empty = [row for row in found.bins if not row["count"]]
    assert all(row["accuracy"] is None and row["confidence"] is None for row in empty)


def test_a_calibrated_guess_has_no_calibration_error():
    """Labels drawn from the probabilities themselves, but for the noise of 20,000 draws."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 20_000)
    labels = (p.cumsum(1) < rng.random((20_000, 1))).sum(1)
    log_p, own = torch.from_numpy(np.log(p)), torch.from_numpy(labels)
    assert scores(log_p, own).calibration_error < 0.015
    sharper = (3 * log_p).log_softmax(1)
    assert scores(sharper, own).calibration_error > 0.15
    assert scores(sharper, own).log_prob.mean < scores(log_p, own).log_prob.mean


def test_priors():
    assert log_class_prior(None, 4).exp().tolist() == pytest.approx([0.25] * 4)
    log_p = torch.tensor([[-1000.0, -1001.0], [-5.0, -5.0]])
    odds = log_posterior(log_p, [1, 4])
    torch.testing.assert_close(odds[:, 0] - odds[:, 1], torch.tensor([1.0, 0.0]) - np.log(4))
    for bad in ([1], [1, 0], [1, float("inf")], [[1, 2]]):
        with pytest.raises(UserError, match="prior: expected 2 positive numbers"):
            log_class_prior(bad, 2)
    with pytest.raises(UserError, match="at least one datum"):
        scores(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    with pytest.raises(UserError, match="bins: expected at least 1"):
        scores(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), bins=0)


def test_frequencies_are_of_the_labels_that_there_are():
    x = np.zeros((10, 3, 2))
    labels = np.array([0, 0, 0, 1, 1, 2, -1, -1, -1, -1])
    data = Dataset.from_arrays(x, x, labels, labels)
    assert class_frequencies(conditioned(data, ["labels"])) == pytest.approx([3 / 6, 2 / 6, 1 / 6])
    with pytest.raises(UserError, match="expected classes in the training data"):
        class_frequencies(data)


SMALL = {"hidden_dims": (16,), "batch_size": 32, "evaluation_samples": 2, "progress": False}


def bright_and_dark(count: int = 160) -> Dataset:
    """Classes that differ in which half is bright."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    x = rng.random((count, 6, 4)) < 0.15
    x[:, :3] |= (labels[:, None, None] == 0) & (rng.random((count, 3, 4)) < 0.8)
    x[:, 3:] |= (labels[:, None, None] == 1) & (rng.random((count, 3, 4)) < 0.8)
    x, half = x.astype(np.float32), count // 2
    return Dataset.from_arrays(x[:half], x[half:], labels[:half], labels[half:])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> flowvae.Run:
    return flowvae.train(
        dataset=bright_and_dark(),
        condition="labels",
        objective="m2",
        labelled=20,
        out=tmp_path_factory.mktemp("m2") / "run",
        epochs=60,
        learning_rate=0.01,
        finish=False,
        **SMALL,
    )


def test_a_run_is_classified_and_the_file_says_the_same(run):
    found = flowvae.classify(run, 16, progress=False)
    assert found.bayes is not None
    assert found.classifier is not None
    assert found.bayes.accuracy.mean > 0.9
    assert found.classifier.accuracy.mean > 0.9
    assert found.prior == (0.5, 0.5)  # of 20 labels, as many of each
    written = json.loads((run.path / "classification.json").read_text())
    assert written == json.loads(json.dumps(found.to_dict()))
    assert set(written["bayes"]["confusion"][0]) <= set(range(81))
    assert "probabilities" not in written
    fewer = flowvae.classify(run, 4, count=10, prior=[3, 1], seed=4, progress=False)
    assert (fewer.count, fewer.prior, fewer.seed) == (10, (0.75, 0.25), 4)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"samples": 0}, "samples: expected at least 1, got 0"),
        ({"count": 0}, "count: expected at least 1, got 0"),
        ({"prior": "even"}, "prior: expected frequencies or uniform, got 'even'"),
        ({"prior": [1.0]}, "prior: expected 2 positive numbers"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, options, complaint, tmp_path):
    other = flowvae.Run(tmp_path, run.config, run.model, run.dataset)
    with pytest.raises(UserError, match=complaint):
        flowvae.classify(other, progress=False, **options)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path, capsys):
    data = bright_and_dark()
    np.savez(tmp_path / "d.npz", x=data.train.data.reshape(-1, 6, 4), y=data.train.labels)
    for name, more in (
        ("classes", {"label_column": "y", "condition": "labels"}),
        ("number", {"condition": "y"}),
        ("none", {}),
    ):
        options = {**SMALL, **more, "epochs": 1, "finish": False, "data": str(tmp_path / "d.npz")}
        flowvae.train(out=tmp_path / name, **options)
    capsys.readouterr()
    assert call("classify", tmp_path / "classes", "--samples", 2) == 0
    shown = capsys.readouterr().out
    assert "Classes by Bayes' rule" in shown
    assert "expected calibration error" in shown
    assert (tmp_path / "classes" / "classification.json").exists()
    assert call("classify", tmp_path / "classes", "--samples", 2, "--count", 3, "--json") == 0
    assert json.loads(capsys.readouterr().out)["count"] == 3
    for name, complaint in (
        ("number", "condition: expected classes, got y"),
        ("none", "condition: expected classes, the model is not conditional"),
    ):
        assert call("classify", tmp_path / name) == 2
        error = capsys.readouterr().err
        assert complaint in error
        assert "Traceback" not in error
        assert not (tmp_path / name / "classification.json").exists()

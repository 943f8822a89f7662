"""Policies of binarization."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from flowvae.config import resolve_config
from flowvae.data import Batches, Dataset, FileRows, Split, binarize, load_dataset
from flowvae.evaluation import evaluate_model
from tests.helpers.making import trainer_of


def fixed(mnist: Dataset, policy: str) -> tuple[Tensor, Tensor]:
    """Binary and grey values of the first images."""
    small = Dataset("part", Split(mnist.train.data[:2000]), Split(mnist.test.data), (28, 28))
    once, again = binarize(small, policy), binarize(small, policy)
    assert torch.equal(once.train.data, again.train.data)
    assert not once.pseudo_likelihood
    assert set(once.train.values().unique().tolist()) == {0.0, 1.0}
    return once.train.values(), small.train.values()


def test_a_threshold(mnist):
    binary, grey = fixed(mnist, "threshold")
    assert torch.equal(binary, (grey >= 0.5).float())


def test_a_fixed_draw_is_right_on_average_and_certain_at_0_and_1(mnist):
    binary, grey = fixed(mnist, "static")
    assert abs((binary - grey).sum() / (grey * (1 - grey)).sum().sqrt()) < 5
    assert (binary == grey)[(grey == 0) | (grey == 1)].all()


def by_datum(found: Dataset) -> dict[int, tuple[int, ...]]:
    """Number of a datum, its label -> its binary pixels, over all splits but a grey one."""
    return {
        int(label): tuple(image.tolist())
        for split in found.splits.values()
        if split.is_binary()
        for label, image in zip(split.labels, split.data[:], strict=True)
    }


@pytest.mark.parametrize("policy", ["static", "dynamic"])
@pytest.mark.parametrize("form", ["one array", "train and test", "in its file"])
def test_a_fixed_draw_belongs_to_the_datum(form, policy, tmp_path):
    """Not to the seed, nor to the split that it falls into, nor to where it is kept."""
    x = np.random.default_rng(0).integers(1, 255, (2300, 9), dtype=np.uint8)
    number = np.arange(2300)
    given = {"x_train": x[:1500], "x_test": x[1500:]}
    given |= {"y_train": number[:1500], "y_test": number[1500:]}
    arrays = given if form == "train and test" else {"x": x, "y": number}
    np.savez(tmp_path / "x.npz", **arrays)
    budget = 19e3 / 2**30 if form == "in its file" else 1.0  # the labels fit
    expected = by_datum(load_dataset(str(tmp_path / "x.npz"), "static"))
    assert len(expected) == 2300
    for seed in (0, 1):
        found = load_dataset(
            str(tmp_path / "x.npz"), policy, seed=seed, validation_fraction=0.3,
            memory_budget=budget, test_fraction=0.2,
        )  # fmt: skip
        assert isinstance(found.test.data, FileRows) == (form == "in its file")
        drawn = by_datum(found)
        assert len(drawn) >= 2300 if policy == "static" else len(drawn) > 500
        assert all(expected[number] == image for number, image in drawn.items())


def test_the_draw_of_data_with_a_test_set_stays_what_it_was():
    """One stream of uniform numbers, the test images first: runs of before can be compared."""
    x = np.random.default_rng(0).integers(0, 256, (1000, 7), dtype=np.uint8)
    found = binarize(Dataset.from_arrays(x[:700], x[700:]), "static")
    generator = torch.Generator().manual_seed(0)
    for split, grey in ((found.test, x[700:]), (found.train, x[:700])):
        drawn = torch.bernoulli(torch.from_numpy(grey).float() / 255, generator=generator)
        assert torch.equal(split.values(), drawn)


def test_dynamic_binarization(mnist):
    small = Dataset("part", Split(mnist.train.data[:300]), Split(mnist.test.data[:300]), (28, 28))
    dynamic = binarize(small, "dynamic")
    assert torch.equal(dynamic.train.data, small.train.data)
    assert dynamic.test.is_binary()
    assert not dynamic.pseudo_likelihood
    assert torch.equal(dynamic.test.data, binarize(small, "static").test.data)
    generator = torch.Generator().manual_seed(0)
    batches = Batches(dynamic.train, 300, generator, dynamic=True)
    (first,), (second,) = list(batches), list(batches)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first.sum(0), second.sum(0))


def test_binary_data_is_no_pseudo_likelihood():
    binary = np.random.default_rng(0).integers(0, 2, (20, 5))
    assert not Dataset.from_arrays(binary, binary).pseudo_likelihood
    assert not Dataset.from_arrays(binary.astype(np.uint8) * 255, binary).pseudo_likelihood
    assert Dataset.from_arrays(binary * 0.5, binary).pseudo_likelihood


def test_dynamic_binarization_of_mnist_is_scored_on_a_fixed_draw():
    mnist = load_dataset("mnist", "dynamic")
    part = Dataset("part", Split(mnist.train.data[:500]), mnist.test, (28, 28), "dynamic")
    config = resolve_config(binarization="dynamic", hidden_dims=(8,))
    trainer = trainer_of(config, part)
    for _ in trainer.steps():
        pass
    scored = evaluate_model(trainer.model, part.test, 2, binarization="dynamic")
    assert not scored.pseudo_likelihood
    again = binarize(load_dataset("mnist"), "dynamic").test
    assert evaluate_model(trainer.model, again, 2, binarization="dynamic") == scored

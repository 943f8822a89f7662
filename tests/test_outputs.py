"""Samples and reconstructions of conditional runs, and of runs with missing values."""

from __future__ import annotations

import csv

import matplotlib.image
import numpy as np
import pytest
import torch

import flowvae
from flowvae.data import Column, Dataset
from flowvae.data.condition_texts import condition_from_text, condition_texts, conditions_in_turn
from flowvae.data.conditions import class_rows, conditioned, encode_condition
from flowvae.errors import UserError
from flowvae.figures.images import visible
from flowvae.outputs import condition_title, decoded_means
from flowvae.runs import Run
from tests.conftest import blobs
from tests.helpers.making import call, seeded

SMALL = {"hidden_dims": (16,), "epochs": 1, "evaluation_samples": 2, "progress": False}
LABEL = (Column("label", "categorical", ("cat", "dog", "emu, old")),)
LABELS = (Column("label", "categorical", ("0", "1")),)
PERSON = (
    Column("age", "numeric", mean=40.0, scale=10.0),
    Column("sex", "binary", ("female", "male")),
)


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Run:
    """Images in two classes, of which the first pixels are missing here and there; D = 3."""
    images, kinds = blobs(90, (6, 5))
    images = images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)
    images[::4, :2] = np.nan
    file = tmp_path_factory.mktemp("gaps") / "gaps.npz"
    np.savez(file, x_train=images[:60], x_test=images[60:], y_train=kinds[:60], y_test=kinds[60:])
    options = {"condition": "labels", "missing": "model", "latent_dim": 3}
    return flowvae.train(
        data=str(file), out=file.parent / "run", prior="normal", finish=False, **options, **SMALL
    )


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Run:
    """A table under two columns of it, with gaps."""
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("people") / "people.csv"
    with file.open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["age", "sex", "height", "eyes"])
        for _ in range(80):
            height = "" if rng.random() < 0.2 else f"{rng.normal(170, 9):.1f}"
            row = [rng.integers(20, 70), rng.choice(["female", "male"]), height]
            rows.writerow([*row, rng.choice(["blue", "brown", "grey"])])
    options = {"condition": ("age", "sex"), "missing": "model", "likelihood": "mixed"}
    return flowvae.train(
        data=str(file), out=file.parent / "run", latent_dim=2, finish=False, **options, **SMALL
    )


def test_a_sample_under_a_condition_is_the_model_s(classes):
    z, given = classes.model.draw_prior(5, seeded(3), "1")
    assert given is not None
    assert given.tolist() == [[0.0, 1.0]] * 5
    with torch.no_grad():
        expected = classes.model.decode(z, given).mean.reshape(5, 6, 5).numpy()
    np.testing.assert_array_equal(flowvae.sample(classes, 5, condition=1, seed=3), expected)
    turns = flowvae.sample(classes, 5, seed=3)
    each = flowvae.sample(classes, 5, condition=["0", "1", "0", "1", "0"], seed=3)
    np.testing.assert_array_equal(turns, each)
    assert not np.array_equal(turns, expected)


def test_samples_of_a_numeric_condition_have_that_of_the_test_data(people, tmp_path):
    x = flowvae.sample(people, 12, out=tmp_path / "a.npz")
    known = people.dataset.test.condition
    assert known is not None
    arrays = np.load(tmp_path / "a.npz")
    texts = condition_texts(people.model.condition, known)
    assert arrays["condition"].tolist() == [texts[k % len(texts)] for k in range(12)]
    np.testing.assert_array_equal(
        x, flowvae.sample(people, 12, condition=known[torch.arange(12) % len(known)])
    )


def test_a_datum_is_rewritten_with_the_same_z(classes):
    rows = classes.dataset.test.rows(slice(4))
    model = classes.model
    x, own = flowvae.reconstruct(classes, 4, seed=2)
    _, other = flowvae.reconstruct(classes, 4, condition=1, seed=2)
    with torch.no_grad():
        z = model.posterior(rows).rsample((), seeded(2))
        again = [model.decode(z, y).mean for y in (rows[:, -2:], class_rows(LABELS)[1])]
    np.testing.assert_array_equal(own.reshape(4, -1), again[0].numpy())
    np.testing.assert_array_equal(other.reshape(4, -1), again[1].numpy())
    assert np.isnan(x).any()
    assert np.isfinite(own).all()


def test_latents_are_of_rows(classes):
    found = flowvae.encode(classes, seed=1)
    q = classes.model.posterior(classes.dataset.test.rows())
    z, log_q = q.rsample_and_log_prob((), seeded(1))
    np.testing.assert_allclose(found["z"], z.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(found["log_q"], log_q.detach().numpy(), rtol=1e-5)


def test_a_table_has_its_conditions_beside_it(people, tmp_path):
    flowvae.sample(people, 3, condition={"age": 33, "sex": "male"}, out=tmp_path / "s.csv")
    with (tmp_path / "s.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == ["array", "height", "eyes", "age", "sex"]
    assert {row["sex"] for row in rows} == {"male"}
    assert [float(row["age"]) for row in rows] == pytest.approx([33.0] * 3, rel=1e-6)
    flowvae.reconstruct(people, 8, out=tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    gaps = people.dataset.test.values()[:8, 0].isnan().tolist()
    assert any(gaps)
    assert [row["height"] == "" for row in rows[::2]] == gaps
    assert all(row["height"] for row in rows[1::2])  # filled by the model


@pytest.mark.parametrize("name", ["classes", "people"])
def test_everything_is_drawn_and_evaluated(name, request, tmp_path):
    run: Run = request.getfixturevalue(name)
    copy = Run(tmp_path, run.config, run.model, run.dataset)
    drawn = {file.stem for file in flowvae.draw_figures(copy)}
    expected = {"latent_space"}
    expected |= {"samples", "styles", "reconstructions"} if name == "classes" else {"posterior"}
    assert drawn == expected
    for file in (tmp_path / "figures").iterdir():
        assert matplotlib.image.imread(file)[..., :3].std() > 0.01, f"{file.name} is blank"


@pytest.mark.parametrize(
    ("prior", "shape"),
    [
        ("standard_normal", (6, 5)),
        ("normal", (3, 6, 5)),
        ("gaussian_mixture", (7,)),
        pytest.param("flow", (6, 5), marks=pytest.mark.slow),
    ],
)
def test_pictures_of_classes_at_two_latent_dimensions(prior, shape, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((24, *shape)), np.arange(24) % 3
    data = conditioned(Dataset.from_arrays(x, x[:2], y, y[:2]), ["labels"])
    config = flowvae.Config(latent_dim=2, hidden_dims=(8,), num_flows=2, prior=prior)
    model = flowvae.build_vae(config, shape, condition=data.condition)
    drawn = {file.stem for file in flowvae.draw_figures(Run(tmp_path, config, model, data))}
    images = {"samples", "styles", "reconstructions", "latent_grid"}
    assert drawn == {"latent_space", "posterior"} | (images if len(shape) > 1 else set())


def test_missing_pixels_are_blue():
    grey = np.array([[0.5, np.nan]])
    assert visible(np.ones((2, 2))).shape == (2, 2)
    assert visible(grey)[0, 0].tolist() == [0.5] * 3
    assert visible(grey)[0, 1].tolist() == pytest.approx([0, 0x72 / 255, 0xB2 / 255])
    colour = np.full((1, 1, 3), np.nan)
    colour[..., 0] = 0.25
    assert visible(colour)[0, 0].tolist() == pytest.approx([0.25, 0x72 / 255, 0xB2 / 255])


def test_decoded_means_are_those_of_one_pass(classes):
    z, every = torch.randn(4, 2, 3, generator=seeded()), class_rows(LABELS)
    found = decoded_means(classes.model, z, every)
    with torch.no_grad():
        torch.testing.assert_close(found, classes.model.decode(z, every).mean)


@pytest.mark.parametrize(
    ("columns", "text", "expected"),
    [
        (LABEL, "dog", [[0.0, 1.0, 0.0]]),
        (LABEL, "label=dog", [[0.0, 1.0, 0.0]]),
        (LABEL, "emu, old", [[0.0, 0.0, 1.0]]),
        (LABEL, "label=emu, old", [[0.0, 0.0, 1.0]]),
        (PERSON, "age=50,sex=male", [[1.0, 1.0]]),
        (PERSON, " sex = female , age=3e1 ", [[-1.0, 0.0]]),
        (PERSON[:1], "30", [[-1.0]]),
        (PERSON[:1], "age=30", [[-1.0]]),
        ((Column("y", "categorical", ("007", "08")),), "007", [[1.0, 0.0]]),
        ((Column("y", "categorical", ("y=1", "y=2")),), "y=2", [[0.0, 1.0]]),
        ((Column("y", "categorical", ("3", "4")),), "4", [[0.0, 1.0]]),
    ],
)
def test_conditions_as_a_person_writes_them(columns, text, expected):
    given = encode_condition(columns, condition_from_text(columns, text))
    assert given.tolist() == expected


@pytest.mark.parametrize(
    ("columns", "text", "complaint"),
    [
        (None, "3", "expected none, the model is not conditional"),
        (LABEL, "cow", "expected one of cat, dog, emu, old, got 'cow'"),
        (LABEL, "colour=cat", "expected one of cat, dog, emu, old, got 'colour=cat'"),
        (LABEL, "", "expected one of cat, dog, emu, old, got ''"),
        (LABEL, "label=", "expected label=VALUE, got 'label='"),
        (PERSON, "50", "expected age=VALUE,sex=VALUE, got '50'"),
        (PERSON, "age=50", "got no 'sex'"),
        (PERSON, "age=50,=male", "expected age=VALUE,sex=VALUE, got 'age=50,=male'"),
        (PERSON, "age=,sex=male", "expected age=VALUE,sex=VALUE, got"),
        (PERSON, "age=50,age=51,sex=male", "expected one value for age, got two"),
        (PERSON, "age=50,sex=male,eyes=blue", "got 'eyes'"),
        (PERSON, "age=old,sex=male", "expected numbers, got 'old'"),
        (PERSON, "age=nan,sex=male", "expected finite numbers, got nan"),
    ],
)
def test_what_is_no_condition_is_one_line(columns, text, complaint):
    with pytest.raises(UserError, match=complaint):
        encode_condition(columns, condition_from_text(columns, text))


def test_conditions_as_a_person_reads_them():
    every = class_rows(LABEL)
    assert condition_texts(LABEL, every) == ["cat", "dog", "emu, old"]
    assert condition_texts(LABEL, torch.full((1, 3), torch.nan)) == ["?"]
    assert condition_title(LABEL, every[1:2]) == ", label=dog"
    assert condition_title(PERSON, torch.tensor([[1.0, 0.0]] * 3)) == ", age=50, sex=female"
    assert condition_title(LABEL, every) == ", each under a condition of its own"
    assert condition_title(None, None) == ""


def test_conditions_in_turn():
    assert conditions_in_turn(LABEL, 4, lambda: None).argmax(1).tolist() == [0, 1, 2, 0]
    known = torch.tensor([[0.0, 1.0], [torch.nan, 1.0], [2.0, 0.0]])
    found = conditions_in_turn(PERSON, 3, lambda: known)
    assert found.tolist() == [[0.0, 1.0], [2.0, 0.0], [0.0, 1.0]]
    for nothing in (None, known[1:2]):
        with pytest.raises(UserError, match="condition: expected age, sex"):
            conditions_in_turn(PERSON, 3, lambda nothing=nothing: nothing)


def test_the_commands(classes, run, tmp_path, capsys):
    for command in ("sample", "reconstruct"):
        out, pictures = tmp_path / f"{command}.png", set()
        for number, given in enumerate(([], ["--condition", "1"], ["--condition", "label=0"])):
            assert call(command, classes.path, "--num", 4, "--out", out, *given) == 0
            pictures.add(out.read_bytes())
            assert len(pictures) == number + 1
    assert call("encode", classes.path, "--out", tmp_path / "z.npz") == 0
    capsys.readouterr()
    for path, given, complaint in (
        (classes.path, "7", "condition: column 'label': expected one of 0, 1, got '7'"),
        (run.path, "1", "condition: expected none, the model is not conditional"),
    ):
        for command in ("sample", "reconstruct"):
            out = tmp_path / "bad.png"
            assert call(command, path, "--condition", given, "--out", out) == 2
            error = capsys.readouterr().err
            assert complaint in error
            assert error.count("\n") == 1
            assert not out.exists()

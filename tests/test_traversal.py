"""Walks through latent space, held to geometry and to draws of their own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Column, Dataset
from flowvae.data.conditions import encode_condition, with_labels_as_condition
from flowvae.data.dataset import adopt
from flowvae.latent_ways import lerp, slerp
from flowvae.runs import Run
from tests.conftest import blobs
from tests.helpers.making import call, seeded


def made(tmp_path, shape: tuple[int, ...], **options) -> Run:
    """An untrained run: geometry does not depend on what was learned."""
    has = {"hidden_dims": (8,)} if options.get("network") != "gated_conv" else {}
    has |= {"num_flows": 2} if options.get("posterior") != "gaussian" else {}
    config = resolve_config(**has, **options)
    images, kinds = blobs(60, shape)
    data = Dataset.from_arrays(images[:20], images[20:], kinds[:20], kinds[20:])
    return Run(tmp_path, config, flowvae.build_vae(config, shape).eval(), data)


SHAPES = [
    ((6, 5), {"latent_dim": 1}),
    ((6, 5), {"latent_dim": 2}),
    ((7,), {"latent_dim": 16}),
    ((3, 8, 6), {"latent_dim": 16}),
    ((8, 6, 3), {"latent_dim": 2, "posterior": "gaussian"}),
    ((2, 3, 4), {"latent_dim": 3, "prior": "gaussian_mixture"}),
    ((8, 8), {"latent_dim": 2, "network": "gated_conv"}),
    ((7,), {"latent_dim": 2, "prior": "vampprior", "posterior": "iaf"}),
]


@pytest.mark.parametrize(("shape", "options"), SHAPES)
@pytest.mark.parametrize("directions", ["axes", "principal"])
def test_shapes_values_and_pictures(shape, options, directions, tmp_path):
    run = made(tmp_path, shape, **options)
    D = run.model.latent_dim
    found = flowvae.traverse(run, 3, directions=directions, steps=4, unit="aggregate")
    assert found.z.shape == (D, 4, D)
    assert found.values.shape == (D, 4, *shape)
    with torch.no_grad():
        means = run.model.decode(torch.from_numpy(found.z)).mean
    assert np.allclose(found.values.reshape(D, 4, -1), means.numpy(), atol=1e-6)
    way = flowvae.interpolate(run, 0, 1, steps=4, path="spherical")
    assert way.z.shape == (4, D)
    assert way.values.shape == (4, *shape)
    for each in (found, way):
        assert each._repr_png_().startswith(b"\x89PNG")
        assert repr(each).endswith(f"4 steps, D = {D})")


def test_axes_from_the_priors_mean(tmp_path):
    """Under N(0, I) deviations are 1 and the mean is 0: the points are known."""
    run = made(tmp_path, (6, 5), latent_dim=3)
    found = flowvae.traverse(run, steps=5, reach=2.0)
    expected = np.array([-2, -1, 0, 1, 2])[:, None, None] * np.eye(3)
    assert found.z.tolist() == expected.swapaxes(0, 1).tolist()
    assert found.names == ("z₁", "z₂", "z₃")
    some = flowvae.traverse(run, directions=[2, 0], steps=5, reach=2.0)
    assert some.z.tolist() == found.z[[2, 0]].tolist()
    assert some.names == ("z₃", "z₁")
    assert flowvae.traverse(run, num=2).z.shape == (2, 9, 3)


def test_the_start_is_the_latent_mean(run):
    """Against many more draws, whose error is known; both ways to name the datum agree."""
    x = run.dataset.test.values(slice(7, 8))
    with torch.no_grad():
        draws = run.model.posterior(x).rsample((200_000,), seeded(9))[:, 0].double()
    middle = flowvae.traverse(run, 7, steps=3).z[0, 1]
    error = draws.std(0).numpy() / np.sqrt(1000)
    assert (np.abs(middle - draws.mean(0).numpy()) < 4.5 * error).all()
    for same in (x[0], x[0].numpy().reshape(6, 5), x[0].tolist()):
        assert flowvae.traverse(run, same, steps=3).z[0, 1].tolist() == middle.tolist()


def test_of_a_gaussian_the_mean_is_its_own(tmp_path):
    run = made(tmp_path, (6, 5), latent_dim=4, posterior="gaussian")
    loc = run.model.posterior(run.dataset.test.values(slice(2, 3))).loc[0]
    middle = flowvae.traverse(run, 2, steps=3).z[:, 1]
    assert np.allclose(middle, loc.detach().numpy(), atol=1e-6)


def test_principal_directions_and_deviations_of_the_aggregate(run):
    """Beside singular vectors of z ~ q(z|x) as `encode` draws them; whatever the start is."""
    z = flowvae.encode(run, seed=0)["z"].astype(np.float64)
    _, scales, axes = np.linalg.svd(z - z.mean(0), full_matrices=False)
    found = flowvae.traverse(run, 5, directions="principal", unit="aggregate", steps=3, reach=1.0)
    assert np.allclose(found.directions @ found.directions.T, np.eye(2), atol=1e-12)
    assert np.abs((found.directions * axes).sum(1)) == pytest.approx(1, abs=1e-9)
    assert (np.take_along_axis(found.directions, np.abs(axes).argmax(1)[:, None], 1) > 0).all()
    assert found.deviations == pytest.approx(scales / np.sqrt(len(z) - 1), rel=1e-9)
    shares = (scales**2 / (scales**2).sum()).round(2)
    assert found.names == tuple(f"component {k + 1} ({s:.0%})" for k, s in enumerate(shares))
    steps = np.diff(found.z, axis=1)
    assert np.allclose(np.linalg.norm(steps, axis=-1), found.deviations[:, None], rtol=1e-5)
    own = flowvae.traverse(run, directions=np.array([[3.0, 4.0]]), unit="aggregate", steps=3)
    assert own.directions.tolist() == [[0.6, 0.8]]
    assert own.deviations[0] == pytest.approx((z @ [0.6, 0.8]).std(ddof=1), rel=1e-9)


def test_deviations_of_a_learned_prior(tmp_path):
    run = made(tmp_path, (6, 5), latent_dim=2, prior="gaussian_mixture")
    draws = run.model.prior().rsample((200_000,), seeded(3)).detach().double()
    found = flowvae.traverse(run, steps=3)
    assert found.deviations == pytest.approx(draws.std(0).numpy(), rel=0.03)
    assert np.allclose(found.z[:, 1], draws.mean(0).numpy(), atol=0.2)


@pytest.mark.parametrize("D", [2, 3, 16])
def test_an_arc_turns_and_grows_evenly(D):
    rng = np.random.default_rng(D)
    t = np.linspace(0, 1, 11)
    for _ in range(20):
        a, b = rng.normal(size=(2, D)) * rng.uniform(0.1, 5, (2, 1))
        z = slerp(a, b, t)
        assert np.allclose(z[[0, -1]], [a, b], atol=1e-12)
        lengths = np.linalg.norm(z, axis=1)
        assert np.allclose(np.diff(lengths), (lengths[-1] - lengths[0]) / 10, atol=1e-12)
        unit = z / lengths[:, None]
        angles = np.arccos((unit[1:] * unit[:-1]).sum(1).clip(-1, 1))
        assert np.allclose(angles, angles[0], atol=1e-6)
        whole = np.arccos(unit[0] @ unit[-1])
        assert angles.sum() == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b"), [([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [2.0, 4.0]), ([1.0, 2.0], [-1.0, -2.0])]
)
def test_where_there_is_no_arc_the_way_is_straight(a, b):
    t = np.linspace(0, 1, 5)
    assert np.allclose(slerp(np.array(a), np.array(b), t), lerp(np.array(a), np.array(b), t))
    assert np.allclose(slerp(np.array(a[:1]), np.array(b[:1]), t)[[0, -1], 0], [a[0], b[0]])


def test_interpolation_ends_at_the_latent_means(run):
    way = flowvae.interpolate(run, 4, 9, steps=5)
    ends = run.dataset.test.values(torch.tensor([4, 9]))
    assert way.ends.tolist() == ends.reshape(2, 6, 5).tolist()
    assert np.allclose(np.diff(way.z, axis=0), (way.z[-1] - way.z[0]) / 4, atol=1e-6)
    with torch.no_grad():
        draws = run.model.posterior(ends).rsample((100_000,), seeded(5)).double()
    error = draws.std(0).numpy() / np.sqrt(1000)
    assert (np.abs(way.z[[0, -1]] - draws.mean(0).numpy()) < 4.5 * error).all()
    assert flowvae.interpolate(run, 4, 9, steps=5).z.tolist() == way.z.tolist()


def test_eight_bit_arrays_are_scaled(run):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 5), dtype=np.uint8)
    way = flowvae.interpolate(run, pixels[0], pixels[1], steps=2)
    assert np.allclose(way.ends, pixels / 255)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"start": 60}, "start: expected 0 to 59, a test datum; got 60"),
        ({"start": -1}, "start: expected 0 to 59"),
        ({"start": "a"}, r"or an array of shape \(6, 5\), got 'a'"),
        ({"start": True}, r"or an array of shape \(6, 5\), got True"),
        ({"start": np.zeros((5, 6))}, r"got shape \(5, 6\)"),
        ({"start": np.full((6, 5), np.nan)}, "start: expected finite numbers"),
        ({"start": np.full((6, 5), 2.0)}, "likelihood: bernoulli expects .* in start"),
        ({"directions": "diagonal"}, "directions: expected axes, principal, .* got 'diagonal'"),
        ({"directions": [2]}, r"directions: expected axes 0 to 1, got \[2\]"),
        ({"directions": [-1]}, "directions: expected axes 0 to 1"),
        ({"directions": []}, r"or an array \(n, 2\)"),
        ({"directions": np.ones((2, 3))}, r"an array \(n, 2\), got float64 \(2, 3\)"),
        ({"directions": np.zeros((1, 2))}, "finite vectors other than 0"),
        ({"directions": np.array([[np.inf, 1.0]])}, "finite vectors other than 0"),
        ({"steps": 1}, "steps: expected 2 to 1000, got 1"),
        ({"num": 0}, "num: expected at least 1, got 0"),
        ({"reach": 0.0}, "reach: expected a number above 0, got 0.0"),
        ({"reach": float("nan")}, "reach: expected a number above 0, got nan"),
        ({"unit": "mine"}, "unit: expected prior or aggregate, got 'mine'"),
        ({"out": "walk.jpg"}, r"out: expected a file ending in .png or .npz, got walk\.jpg"),
    ],
)
def test_bad_input_is_one_line(arguments, complaint, run):
    with pytest.raises(flowvae.UserError, match=complaint):
        flowvae.traverse(run, **arguments)


def test_bad_paths(run):
    with pytest.raises(flowvae.UserError, match="path: expected linear or spherical, got 'arc'"):
        flowvae.interpolate(run, path="arc")
    with pytest.raises(flowvae.UserError, match="last: expected 0 to 59"):
        flowvae.interpolate(run, 0, 99)


def test_the_commands(run, tmp_path, capsys):
    picture, arrays = tmp_path / "walk.png", tmp_path / "walk.npz"
    for out in (picture, arrays):
        flags = ["--directions", "principal", "--unit", "aggregate", "--steps", 5, "--num", 1]
        assert call("traverse", run.path, "--datum", 3, *flags, "--out", out, "--seed", 1) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = flowvae.traverse(
        run, 3, directions="principal", unit="aggregate", steps=5, num=1, seed=1
    )
    with np.load(arrays, allow_pickle=False) as written:
        assert written["values"].tolist() == found.values.tolist()
        assert written["names"].tolist() == list(found.names)
        assert set(written) == {"z", "values", "offsets", "directions", "deviations", "names"}
    for out in (picture, arrays):
        flags = ["--between", 5, 2, "--path", "spherical", "--steps", 4]
        assert call("interpolate", run.path, *flags, "--out", out) == 0
    with np.load(arrays, allow_pickle=False) as written:
        way = flowvae.interpolate(run, 5, 2, path="spherical", steps=4)
        assert written["z"].tolist() == way.z.tolist()
        assert set(written) == {"z", "values", "t", "ends"}
    assert f"Wrote {arrays}" in capsys.readouterr().out


def test_commands_write_beside_the_run_and_refuse_in_one_line(run, data_file, tmp_path, capsys):
    flowvae.train(
        "original", data=str(data_file), out=tmp_path / "run", hidden_dims=(4,), epochs=1,
        finish=False, progress=False,
    )  # fmt: skip
    before = {path.name for path in (tmp_path / "run").iterdir()}
    for command in ("traverse", "interpolate"):
        assert call(command, tmp_path / "run") == 0
    written = {path.name for path in (tmp_path / "run").iterdir()} - before
    assert written == {"traversal.png", "interpolation.png"}
    capsys.readouterr()
    for flags in (
        ["traverse", run.path, "--directions", "up"],
        ["traverse", run.path, "--directions", "0,5", "--out", tmp_path / "a.png"],
        ["traverse", run.path, "--datum", 1000, "--out", tmp_path / "a.png"],
        ["traverse", run.path, "--reach", "nan", "--out", tmp_path / "a.png"],
        ["interpolate", run.path, "--between", 0, 60, "--out", tmp_path / "a.png"],
        ["interpolate", run.path, "--out", tmp_path / "a.csv"],
        ["interpolate", tmp_path / "nowhere"],
    ):
        assert call(*flags) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("flowvae: ")
        assert shown.count("\n") == 1
    assert not list(tmp_path.glob("a.*"))


def test_a_table(tmp_path):
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    rows = [f"{rng.normal():.3f},{rng.choice(['a', 'b', 'c'])},{rng.choice(['y', 'n'])}"
            for _ in range(80)]  # fmt: skip
    (tmp_path / "table.csv").write_text("\n".join(["cost in $m$,city,paid", *rows]) + "\n")
    run = flowvae.train(
        "planar", data=str(tmp_path / "table.csv"), likelihood="mixed", out=tmp_path / "run",
        hidden_dims=(4,), latent_dim=3, epochs=1, finish=False, progress=False,
    )  # fmt: skip
    found = flowvae.traverse(run, 0, directions="principal")
    assert found.values.shape == (3, 9, 5)
    figure = found.figure()
    panel = figure.axes[0]
    legend = panel.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["cost in $m$", "city = a", "city = b", "city = c", "paid = y"]
    assert np.allclose(panel.lines[0].get_ydata(), found.values[0, :, 0])
    way = flowvae.interpolate(run, run.dataset.test.values()[0], 1)
    assert way.figure().axes[0].lines[1].get_ydata().tolist() == way.ends[:, 0].tolist()
    assert found._repr_png_().startswith(b"\x89PNG")


def conditional(tmp_path, prior="normal", **options) -> Run:
    """Two classes beside images of 6 x 5; every weight large enough to matter."""
    columns = (Column("kind", "categorical", ("cat", "dog")),)
    config = resolve_config(
        hidden_dims=(8,), posterior="gaussian", condition=("labels",), prior=prior, **options
    )
    images, kinds = blobs(60, (6, 5))
    data = Dataset.from_arrays(images[:20], images[20:], kinds[:20], kinds[20:])
    data = with_labels_as_condition(dataclasses.replace(data, label_names=("cat", "dog")), columns)
    model = flowvae.build_vae(config, (6, 5), condition=columns).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(1)))
    return Run(tmp_path, config, model, data)


def decoded(run: Run, z: np.ndarray, condition: str) -> np.ndarray:
    with torch.no_grad():
        places = torch.from_numpy(z).reshape(-1, z.shape[-1])
        y = encode_condition(run.model.condition, condition, len(places))
        return run.model.decode(places, y).mean.reshape(*z.shape[:-1], 6, 5).numpy()


def test_a_conditional_run_is_walked_under_one_condition(tmp_path):
    run = conditional(tmp_path)
    rows = run.dataset.test.rows(slice(2))
    own = [("cat", "dog")[int(row[-1])] for row in rows]
    with torch.no_grad():
        means = run.model.posterior(rows).loc.numpy()
    found = flowvae.traverse(run, 0, steps=3)
    assert np.allclose(found.z[:, 1], means[0], atol=1e-6)
    assert np.allclose(found.values, decoded(run, found.z, own[0]), atol=1e-6)
    # The deviation is that of p(z|y), under the condition that is decoded under.
    for kind in ("cat", "dog"):
        found = flowvae.traverse(run, 0, steps=3, condition=kind)
        assert np.allclose(found.z[:, 1], means[0], atol=1e-6)
        assert np.allclose(found.values, decoded(run, found.z, kind), atol=1e-6)
        prior = run.model.prior(encode_condition(run.model.condition, kind)[0])
        assert np.allclose(found.deviations, prior.stddev.detach().numpy(), rtol=1e-5)
        middle = flowvae.traverse(run, steps=3, condition=kind).z[0, 1]
        assert np.allclose(middle, prior.mean.detach().numpy(), atol=1e-6)
    # An array has no condition of its own: it is encoded under the one that is given.
    found = flowvae.traverse(run, rows[0, :30].numpy(), steps=3, condition="dog")
    with torch.no_grad():
        mean = run.model.posterior(rows[:1, :30], "dog").loc[0].numpy()
    assert np.allclose(found.z[:, 1], mean, atol=1e-6)


@pytest.mark.parametrize("prior", ["normal", "flow", "gaussian_mixture", "standard_normal"])
def test_from_one_condition_to_another(tmp_path, prior):
    run = conditional(tmp_path, prior)
    flowvae.traverse(run, steps=3, condition="cat")
    found = flowvae.interpolate(run, 0, 0, steps=5, condition=["cat", "dog"])
    assert (found.z == found.z[0]).all()
    assert np.allclose(found.values[0], decoded(run, found.z[:1], "cat")[0], atol=1e-6)
    assert np.allclose(found.values[-1], decoded(run, found.z[:1], "dog")[0], atol=1e-6)
    half = torch.full((1, 2), 0.5)
    with torch.no_grad():
        middle = run.model.decode(torch.from_numpy(found.z[:1]), half).mean.numpy()
    assert np.allclose(found.values[2].reshape(-1), middle[0], atol=1e-6)
    out = tmp_path / "way.npz"
    labels = run.dataset.test.labels
    assert labels is not None
    other = int((labels != labels[0]).nonzero()[0])
    found = flowvae.interpolate(run, 0, other, steps=3, out=out)
    kind = ("cat", "dog")[int(labels[0])]
    assert np.allclose(found.values, decoded(run, found.z, kind), atol=1e-6)
    with np.load(out) as arrays:
        assert (arrays["condition"] == np.eye(2)[int(labels[0])]).all()


def test_conditions_that_are_wrong_are_one_line(tmp_path, run):
    mine = conditional(tmp_path)
    expected = r"condition: expected kind \(one of cat, dog\), got none"
    with pytest.raises(flowvae.UserError, match=expected):
        flowvae.traverse(mine)
    with pytest.raises(flowvae.UserError, match=expected):
        flowvae.interpolate(mine, np.zeros((6, 5)), 1)
    with pytest.raises(flowvae.UserError, match="expected one of cat, dog, got 'bird'"):
        flowvae.traverse(mine, 0, condition="bird")
    with pytest.raises(flowvae.UserError, match="condition: expected 1 or 2, got 3"):
        flowvae.interpolate(mine, condition=["cat", "dog", "cat"])
    with pytest.raises(flowvae.UserError, match="the model is not conditional"):
        flowvae.traverse(run, 0, condition="cat")


def test_walks_where_values_are_missing(tmp_path):
    config = resolve_config(hidden_dims=(8,), posterior="gaussian", missing="model")
    images, _ = blobs(60, (6, 5))
    gaps = np.where(np.random.default_rng(0).random(images.shape) < 0.3, np.nan, images)
    splits = [adopt(part, None, "gaps", missing=True) for part in (gaps[:20], gaps[20:])]
    data = Dataset("gaps", *splits, (6, 5))
    run = Run(tmp_path, config, flowvae.build_vae(config, (6, 5)).eval(), data)
    found = flowvae.traverse(run, gaps[20], steps=3, out=tmp_path / "walk.png")
    assert np.isfinite(found.values).all()
    assert found.z.tolist() == flowvae.traverse(run, 0, steps=3).z.tolist()
    way = flowvae.interpolate(run, 0, 1, out=tmp_path / "way.png")
    assert np.isfinite(way.values).all()
    assert np.isnan(way.ends).any()

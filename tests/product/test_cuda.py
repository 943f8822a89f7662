"""On a CUDA GPU: what only one can show. `make gpu` runs these and the others marked `cuda`."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import flowvae
from flowvae.data import binarize
from flowvae.data.conditions import conditioned
from flowvae.errors import TrainingError
from flowvae.evaluation import FullSettings, evaluate_full, evaluate_model
from flowvae.flows import planar_flow, planar_flow_inverse, reference
from tests.helpers.making import trainer_of

pytestmark = pytest.mark.cuda


DEVICE = "cuda"


SMALL = {"hidden_dims": (16,), "batch_size": 32, "device": DEVICE}


# Every posterior, prior and objective at least once.
KINDS = [
    {"posterior": "gaussian"},
    {"posterior": "planar", "num_flows": 3},
    {"posterior": "planar", "num_flows": 16, "constraint": "centred", "latent_dim": 5},
    {"posterior": "radial", "num_flows": 3},
    {"posterior": "householder", "num_flows": 3, "latent_dim": 4},
    {"posterior": "sylvester_orthogonal", "num_flows": 2, "latent_dim": 4},
    {"posterior": "sylvester_householder", "num_flows": 2, "latent_dim": 4},
    {"posterior": "sylvester_triangular", "num_flows": 2, "latent_dim": 4},
    {"posterior": "iaf", "num_flows": 2},
    {"posterior": "coupling", "num_flows": 2},
    {"posterior": "spline", "num_flows": 2},
    {"prior": "gaussian_mixture"},
    {"prior": "flow", "num_flows": 2},
    {"prior": "vampprior"},
    {"objective": "iwae", "samples": 5},
    {"objective": "dreg", "samples": 5},
    {"objective": "stl"},
    {"binarization": "dynamic"},
    {"schedule": "cosine", "epochs": 4},
    {"max_grad_norm": 5.0},
    {"network": "gated_conv"},
    {"network": "resnet"},
    {"likelihood": "gaussian", "sigma": 0.5},
    {"likelihood": "gaussian", "sigma": "per_pixel"},
    {"likelihood": "gaussian", "missing": "model", "missingness": "self_masking"},
    {"condition": ("labels",)},
    {"condition": ("labels",), "objective": "m2", "labelled": 20, "labelled_batch": 4},
]


def named(settings: dict[str, object]) -> str:
    return "-".join(str(value) for value in settings.values())


def make(data, **settings):
    config = flowvae.Config(**(SMALL | settings))
    data = conditioned(data, config.data.condition, labelled=config.data.labelled)
    torch.manual_seed(0)
    return trainer_of(
        config,
        binarize(data, config.binarization),
        flowvae.build_vae(config, data.data_shape, condition=data.condition).to(DEVICE),
    )


def epochs(trainer, n: int) -> list[float]:
    found = []
    for _ in range(n):
        for _ in trainer.steps():
            pass
        found.append(trainer.means.read()["elbo"])
    return found


@pytest.mark.parametrize("settings", KINDS, ids=named)
def test_a_recorded_update_trains_like_one_that_is_not(small_data, settings):
    """200 data in batches of 32: three updates as they are, the rest replayed, one smaller."""
    recorded, plain = make(small_data, **settings), make(small_data, **settings)
    plain._graph = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # recording fails with a warning
        ours = epochs(recorded, 3)
    assert recorded._graph is not None
    assert recorded._graph._graph is not None
    theirs = epochs(plain, 3)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert int(recorded.step) == int(plain.step) == 21
    assert int(recorded.skipped) == 0
    for a, b in zip(recorded.parameters, plain.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=5e-2, atol=5e-3)


def test_bfloat16(small_data):
    settings = {"posterior": "planar", "num_flows": 4}
    exact, rounded = (
        epochs(make(small_data, precision=p, **settings), 3)[-1] for p in ("float32", "bfloat16")
    )
    assert rounded == pytest.approx(exact, rel=0.02)


def test_a_gradient_that_is_not_finite_is_left_out(small_data):
    """By the device alone, in a recorded update too; after 50 in a row training stops."""
    trainer = make(small_data, posterior="planar", num_flows=3)
    epochs(trainer, 1)
    before = [p.detach().clone() for p in trainer.parameters]
    with torch.no_grad():
        trainer.parameters[0][0, 0] = torch.nan
        before[0][0, 0] = torch.nan
    with pytest.raises(TrainingError, match="not finite in 7 updates in a row"):
        epochs(trainer, 1)
    assert int(trainer.skipped) == 7
    assert int(trainer.step) == 7
    for a, b in zip(trainer.parameters, before, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_training_goes_on_where_it_stood(small_data, tmp_path):
    """A state written in the middle of an epoch, taken up by another trainer."""
    settings = {"posterior": "planar", "num_flows": 3, "schedule": "cosine", "epochs": 4}
    straight, first, second = (make(small_data, **settings) for _ in range(3))
    expected = epochs(straight, 3)
    epochs(first, 1)
    steps = first.steps()
    for _ in range(4):
        next(steps)
    first.save(tmp_path / "state.safetensors")
    second.load(tmp_path / "state.safetensors")
    assert epochs(second, 2) == pytest.approx(expected[1:], rel=1e-4)
    for a, b in zip(straight.parameters, second.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("constraint", ["paper", "centred"])
def test_a_large_planar_flow(inverted, constraint):
    """65,536 sets of 16 layers in 64 dimensions, against the reference in float64."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    P, K, D = 65536, 16, 64
    shapes = [(P, D), (P, K, D), (P, K, D), (P, K)]
    inputs = [0.2 * torch.randn(s, generator=generator, device=DEVICE) for s in shapes]
    inputs = [x.requires_grad_() for x in inputs]
    outputs = (planar_flow_inverse if inverted else planar_flow)(*inputs, constraint)
    weights = [torch.randn(o.shape, generator=generator, device=DEVICE) for o in outputs]
    found = [*outputs, *torch.autograd.grad(outputs, inputs, weights)]
    some = torch.arange(0, P, 997, device=DEVICE)
    exact = [x.detach()[some].double().requires_grad_() for x in inputs]
    truth = (reference.inverse if inverted else reference.forward)(
        *exact, reference.SHIFTS[constraint]
    )
    gradients = torch.autograd.grad(truth, exact, [w[some].double() for w in weights])
    for a, b in zip(found, [*truth, *gradients], strict=True):
        torch.testing.assert_close(a[some].double(), b, rtol=1e-4, atol=1e-5)


def test_the_operator_is_registered_rightly():
    generator = torch.Generator(DEVICE).manual_seed(0)
    shapes = [(4, 5, 3), (5, 2, 3), (5, 2, 3), (5, 2)]
    inputs = [torch.randn(s, generator=generator, device=DEVICE) for s in shapes]
    arguments = (*(x.requires_grad_() for x in inputs), 0.0, True)
    torch.library.opcheck(torch.ops.flowvae.planar.default, arguments)
    torch.library.opcheck(torch.ops.flowvae.planar_inverse.default, arguments)


def test_a_run_from_start_to_end(small_data, tmp_path):
    """Trained, evaluated in full, loaded on either device: the same model."""
    run = flowvae.train(
        "planar", dataset=small_data, out=tmp_path / "run", epochs=3, progress=False, **SMALL
    )
    on_cpu, on_gpu = flowvae.load(run.path), flowvae.load(run.path, device=DEVICE)
    x = small_data.test.values()
    ours, theirs = on_cpu.posterior(x).base.loc, on_gpu.posterior(x.to(DEVICE)).base.loc
    torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-3, atol=1e-4)
    assert (run.path / "figures" / "posterior.png").stat().st_size > 1000
    found = [evaluate_model(m, small_data.test, 64, seed=0).terms["elbo"] for m in (on_cpu, on_gpu)]
    assert found[0].mean == pytest.approx(found[1].mean, abs=5 * (found[0].standard_error or 0))


def test_the_full_evaluation(run, small_data, tmp_path):
    """Every part: importance sampling, quadrature, annealing, gaps, information."""
    little = {"samples": 60, "ais_count": 4, "ais_temperatures": 20, "bdmc_count": 3}
    settings = FullSettings(gap_count=4, gap_steps=20, information_count=30, **little)
    found = [
        evaluate_full(
            flowvae.load(run.path, device=device), small_data, tmp_path / device, settings
        ).per_datum
        for device in ("cpu", DEVICE)
    ]
    assert found[0].keys() == found[1].keys()
    ours, theirs = (f["quadrature"]["log_prob"] for f in found)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    for part in found[1].values():
        assert all(values.isfinite().all() for values in part.values())


def test_estimator(small_data):
    pytest.importorskip("sklearn")
    from flowvae import FlowVAE

    x = small_data.train.values().numpy()
    vae = FlowVAE(epochs=2, hidden_dims=(16,), device=DEVICE).fit(x)
    assert vae.transform(x[:5]).shape == (5, 2)
    assert np.isfinite(vae.score_samples(x[:5])).all()
    assert vae.sample(3).shape == (3, 30)

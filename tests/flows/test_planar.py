"""The planar flow against autograd, high-precision arithmetic and its own definition."""

from __future__ import annotations

import pytest

mpmath = pytest.importorskip("mpmath")

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvae.flows import CONSTRAINTS, planar_flow
from flowvae.flows.reference import SHIFTS, constrain

constraints = pytest.mark.parametrize("constraint", CONSTRAINTS)


@st.composite
def cases(draw, most_D=8, most_K=16, scales=(0.01, 1.0, 3.0, 10.0, 30.0)):
    """Random z, w, u, b in float64 at a random scale."""
    D, K = draw(st.integers(1, most_D)), draw(st.integers(1, most_K))
    scale = draw(st.sampled_from(scales))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return normal(D), scale * normal(K, D), scale * normal(K, D), scale * normal(K)


@constraints
@given(case=cases())
def test_log_det_is_that_of_the_jacobian(case, constraint):
    """Each layer's ladj is slogdet of its autograd Jacobian, and the layers add up."""
    z, w, u, b = case
    total = 0.0
    for k in range(len(b)):
        layer = (w[k : k + 1], u[k : k + 1], b[k : k + 1])
        J = torch.autograd.functional.jacobian(
            lambda z, layer=layer: planar_flow(z, *layer, constraint)[0], z
        )
        truth = torch.linalg.slogdet(J)
        z, ladj = planar_flow(z, *layer, constraint)
        # The determinant of a nearly singular matrix is itself only known to eps · cond.
        condition = torch.linalg.cond(J).item()
        tolerance = 1e-10 + 20 * torch.finfo(torch.float64).eps * condition
        error = abs(ladj - truth.logabsdet) / max(1.0, abs(truth.logabsdet))
        assert tolerance > 1e-3 or (truth.sign == 1 and error <= tolerance)
        total += ladj
    z_K, ladj = planar_flow(case[0], w, u, b, constraint)
    torch.testing.assert_close(z_K, z, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(ladj, torch.as_tensor(total), rtol=1e-13, atol=1e-12)


@constraints
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0, 5.0])
def test_log_det_of_the_whole_map(constraint, scale):
    """D = 8, K = 16: slogdet of the composed Jacobian, to 1e-10 where it is well conditioned."""
    torch.manual_seed(0)
    errors = []
    for _ in range(40):
        D, K = 8, 16
        z, w, u = (scale * torch.randn(*s, dtype=torch.float64) for s in ((D,), (K, D), (K, D)))
        b = scale * torch.randn(K, dtype=torch.float64)
        J = torch.autograd.functional.jacobian(
            lambda z, w=w, u=u, b=b: planar_flow(z, w, u, b, constraint)[0], z
        )
        _, ladj = planar_flow(z, w, u, b, constraint)
        if torch.linalg.cond(J) < 1e4:
            errors.append(abs(ladj - torch.linalg.slogdet(J).logabsdet).item())
    assert len(errors) >= 10
    assert max(errors) < 1e-10


def _exact(z, w, u, b, constraint):
    """The definition in enough digits that nothing cancels, on the given floats."""
    mp = mpmath.mp.clone()
    mp.dps = 80 + int((w * u).sum().abs())
    z, w, u, b = ([mp.mpf(v) for v in t.flatten().tolist()] for t in (z, w, u, b))
    shift = mp.log(mp.e - 1) if constraint == "centred" else mp.mpf(0)
    wu = mp.fdot(w, u)
    m = mp.log1p(mp.exp(wu + shift)) - 1
    c = (m - wu) / mp.fdot(w, w)
    u_hat = [ui + c * wi for ui, wi in zip(u, w, strict=True)]
    t = mp.tanh(mp.fdot(w, z) + b[0])
    ladj = mp.log(1 + (1 - t * t) * m)
    return [float(zi + ui * t) for zi, ui in zip(z, u_hat, strict=True)], float(ladj)


@constraints
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(case=cases(most_K=1, scales=(1e-3, 0.1, 1.0, 3.0, 10.0, 30.0)))
def test_one_layer_against_high_precision(case, constraint, dtype):
    """Right to a few rounding errors of the input, near w·û = -1 and far from it."""
    z, w, u, b = (value.to(dtype) for value in case)
    truth, truth_ladj = _exact(z, w, u, b, constraint)
    z_K, ladj = planar_flow(z, w, u, b, constraint)
    eps = torch.finfo(dtype).eps
    # Rounding in a = wᵀz + b and in wᵀu moves tanh and m by at most this much.
    size = (w.abs() @ z.abs() + b.abs() + (w * u).abs().sum() + 1).item()
    assert ladj.item() == pytest.approx(truth_ladj, rel=20 * eps, abs=20 * eps * size)
    reach = 1 + z.abs().max().item() + u.abs().max().item() + 1 / w.norm().item()
    torch.testing.assert_close(
        z_K, torch.tensor(truth, dtype=dtype), rtol=0, atol=20 * eps * size * reach
    )


@constraints
@pytest.mark.parametrize("wu", [-1e4, -300.0, -104.0, -87.0, -40.0, -15.0, -1.0, 0.0, 1.0, 1e4])
@pytest.mark.parametrize("a", [0.0, 1e-30, 1e-6, 0.3, 0.881, 0.8814, 5.0, -20.0, 90.0])
def test_float32_log_det_on_both_sides_of_every_branch(wu, a, constraint):
    z, w, u = torch.zeros(1), torch.ones(1, 1), torch.full((1, 1), wu)
    b = torch.tensor([a])
    _, ladj = planar_flow(z, w, u, b, constraint)
    _, truth = _exact(z, w, u, b, constraint)
    assert ladj.item() == pytest.approx(truth, rel=1e-5, abs=1e-7)


@constraints
@given(case=cases(scales=(0.1, 3.0, 30.0)))
def test_w_dot_u_hat_is_m_and_above_minus_one(case, constraint):
    _, w, u, _ = case
    u_hat, m, log_s = constrain(w, u, SHIFTS[constraint])
    rounding = 1e-13 * (w.abs() * (u.abs() + u_hat.abs())).sum(-1)
    assert ((w * u_hat).sum(-1) > -1 - rounding).all()
    assert ((w * u_hat).sum(-1) - m).abs().le(1e-13 + rounding).all()
    # 1 + m itself is positive: its logarithm is finite even where m rounds to -1.
    assert log_s.isfinite().all()
    torch.testing.assert_close(log_s.exp() - 1, m, rtol=1e-12, atol=1e-12)


def test_centred_is_the_identity_at_zero_u():
    w, b, z = torch.randn(5, 3) * 10, torch.randn(5), torch.randn(7, 3)
    z_K, ladj = planar_flow(z, w, torch.zeros(5, 3), b, "centred")
    assert torch.equal(z_K, z)
    assert torch.equal(ladj, torch.zeros(7))


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6, 1e-9, 1e-15])
def test_behaviour_as_w_vanishes(size):
    """û stays within 2 ‖u‖ when centred; the paper's grows like (1 - ln 2)/‖w‖."""
    torch.manual_seed(1)
    w = torch.randn(100, 1, 4)
    w = size * w / w.norm(dim=-1, keepdim=True)
    u = torch.randn(100, 1, 4)
    centred, _, _ = constrain(w, u, SHIFTS["centred"])
    assert (centred.norm(dim=-1) <= 2 * u.norm(dim=-1) * (1 + 1e-5)).all()
    paper, _, _ = constrain(w, torch.zeros_like(u), SHIFTS["paper"])
    grown = torch.full((100, 1), (1 - math.log(2)) / size)
    torch.testing.assert_close(paper.norm(dim=-1), grown, rtol=1e-4, atol=0)


@constraints
def test_zero_w_is_a_translation(constraint):
    z, u, b = torch.randn(4, 3), torch.randn(2, 3), torch.randn(2)
    w = torch.zeros(2, 3, requires_grad=True)
    z_K, ladj = planar_flow(z, w, u, b, constraint)
    torch.testing.assert_close(z_K, z + (u * b.tanh()[:, None]).sum(0))
    assert torch.equal(ladj, torch.zeros(4))
    (z_K.sum() + ladj.sum()).backward()
    assert w.grad is not None
    assert w.grad.isfinite().all()


@constraints
@given(
    D=st.integers(1, 40),
    K=st.integers(1, 16),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["uniform", "corners", "sparse"]),
)
def test_float32_extremes_are_finite(D, K, seed, kind, constraint):
    """Parameters and points up to ±100: values and gradients stay finite."""
    generator = torch.Generator().manual_seed(seed)

    def extreme(*shape: int) -> Tensor:
        value = 200 * torch.rand(shape, generator=generator) - 100
        if kind == "corners":
            value = 100 * value.sign()
        if kind == "sparse":
            value = value * (torch.rand(shape, generator=generator) < 0.5)
        return value.requires_grad_()

    inputs = extreme(6, D), extreme(6, K, D), extreme(6, K, D), extreme(6, K)
    z_K, ladj = planar_flow(*inputs, constraint)
    assert z_K.isfinite().all()
    assert ladj.isfinite().all()
    (z_K.sum() + ladj.sum()).backward()
    for value in inputs:
        assert value.grad is not None
        assert value.grad.isfinite().all()


@constraints
def test_three_flows_are_not_the_last_alone(constraint):
    """The tutorial's error: every layer acted on z₀ and only the last was returned."""
    torch.manual_seed(0)
    z, w, u, b = torch.randn(50, 2), torch.randn(3, 2), torch.randn(3, 2), torch.randn(3)
    all_three, _ = planar_flow(z, w, u, b, constraint)
    last, _ = planar_flow(z, w[2:], u[2:], b[2:], constraint)
    assert (all_three - last).abs().max() > 0.1


@constraints
def test_gradients(constraint):
    torch.manual_seed(0)
    shapes = (3, 2), (3, 4, 2), (3, 4, 2), (3, 4)
    inputs = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]

    def flow(*inputs: Tensor) -> tuple[Tensor, ...]:
        return planar_flow(*inputs, constraint)

    assert torch.autograd.gradcheck(flow, inputs)
    assert torch.autograd.gradgradcheck(flow, inputs)


@constraints
def test_parameters_are_shared_by_samples(constraint):
    z, w, u, b = torch.randn(7, 5, 2), torch.randn(5, 3, 2), torch.randn(5, 3, 2), torch.randn(5, 3)
    z_K, ladj = planar_flow(z, w, u, b, constraint)
    for s in range(7):
        expected = planar_flow(z[s], w, u, b, constraint)
        torch.testing.assert_close((z_K[s], ladj[s]), expected)
    one_point, one_ladj = planar_flow(z[0, :1], w, u, b, constraint)
    assert one_point.shape == (5, 2)
    assert one_ladj.shape == (5,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    torch.manual_seed(0)
    inputs = [torch.randn(*s).to(dtype) for s in ((9, 2), (9, 8, 2), (9, 8, 2), (9, 8))]
    z_K, ladj = planar_flow(*inputs)
    exact = planar_flow(*(value.float() for value in inputs))
    assert z_K.dtype == ladj.dtype == dtype
    assert torch.equal(z_K, exact[0].to(dtype))
    assert torch.equal(ladj, exact[1].to(dtype))


def test_no_flows_and_empty_batches():
    z = torch.randn(4, 2)
    z_K, ladj = planar_flow(z, torch.zeros(4, 0, 2), torch.zeros(4, 0, 2), torch.zeros(4, 0))
    assert torch.equal(z_K, z)
    assert torch.equal(ladj, torch.zeros(4))
    empty = planar_flow(
        torch.zeros(0, 2), torch.zeros(0, 3, 2), torch.zeros(0, 3, 2), torch.zeros(0, 3)
    )
    assert empty[0].shape == (0, 2)
    assert empty[1].shape == (0,)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"z": torch.zeros(4, 3)}, ValueError, r"w: .* \(\.\.\., K, 3\), got \(4, 3, 2\)"),
        ({"u": torch.zeros(4, 2, 2)}, ValueError, r"u: expected shape \(\.\.\., 3, 2\)"),
        ({"b": torch.zeros(4, 2)}, ValueError, r"b: expected shape \(\.\.\., 3\), got \(4, 2\)"),
        ({"b": torch.zeros(5, 3)}, ValueError, "batch shapes do not broadcast"),
        ({"z": torch.tensor(0.0)}, ValueError, "z: expected shape .* got a scalar"),
        ({"z": torch.zeros(4, 2, dtype=torch.long)}, TypeError, "z: .*floating.*int64"),
        ({"u": torch.zeros(4, 3, 2).double()}, TypeError, "u: .*float32, got torch.float64"),
        ({"w": torch.zeros(4, 3, 2, device="meta")}, ValueError, "w: .*device of z, cpu, got meta"),
        ({"w": [[1.0]]}, TypeError, "w: expected a torch.Tensor, got list"),
        ({"constraint": "none"}, ValueError, "constraint: expected one of .*paper.*got 'none'"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change, error, message):
    good = {
        "z": torch.zeros(4, 2),
        "w": torch.zeros(4, 3, 2),
        "u": torch.zeros(4, 3, 2),
        "b": torch.zeros(4, 3),
    }
    with pytest.raises(error, match=message):
        planar_flow(**{**good, **change})

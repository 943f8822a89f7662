"""The kernels against the float64 reference, the inverse against the map, PyTorch's own checks."""

from __future__ import annotations

import importlib.util
import warnings
from functools import partial

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from flowvae.flows import CONSTRAINTS, planar_flow, planar_flow_inverse, reference
from flowvae.kernels.planar import ops

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)


constraints = pytest.mark.parametrize("constraint", CONSTRAINTS)


# Points, then parameter sets; what broadcasting makes of them is the reference's.
BATCHES = [
    ((1,), (1,)),
    ((5,), (5,)),
    ((37,), (37,)),
    ((3, 7), (3, 7)),
    ((4, 5), (5,)),  # samples of one datum
    ((70, 3), (3,)),
    ((2, 3, 5), (5,)),
    ((2, 3, 5), (3, 5)),
    ((6, 4), (6, 1)),  # samples last
    ((4, 3, 5), (4, 1, 5)),
    ((130,), ()),  # one set for all
    ((), ()),
    ((1,), (9,)),  # one point for all
    ((3, 1), (4,)),
]


@st.composite
def cases(draw, scales=(0.01, 0.3, 1.0, 3.0, 10.0, 30.0), most_D=20, most_K=16):
    """z, w, u, b in float32, of random shape, stride and scale."""
    points, sets = draw(st.sampled_from(BATCHES))
    D, K = draw(st.integers(1, most_D)), draw(st.integers(1, most_K))
    scale = draw(st.sampled_from(scales))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    layout = draw(st.sampled_from(["contiguous", "sliced", "transposed"]))

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        if layout == "sliced":
            value = torch.randn(*shape[:-1], shape[-1] + 3, generator=generator)[..., 1:-2]
        elif layout == "transposed":
            value = torch.randn(*shape[::-1], generator=generator).permute(
                *range(len(shape) - 1, -1, -1)
            )
        else:
            value = torch.randn(*shape, generator=generator)
        return value * scale if layout == "contiguous" else value.mul_(scale)

    z = normal(*points, D)
    w, u = normal(*sets, K, D, scale=scale), normal(*sets, K, D, scale=scale)
    return z, w, u, normal(*sets, K, scale=scale)


def outputs_and_gradients(function, inputs, seed=0):
    """Outputs, and gradients of all four inputs under random weights of the outputs."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    outputs = function(*inputs)
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(o.shape, generator=generator).to(o.dtype) for o in outputs]
    return [o.detach() for o in outputs] + list(torch.autograd.grad(outputs, inputs, weights))


def error(found: Tensor, truth: Tensor, floor: float = 1e-6) -> float:
    """Largest error relative to the largest value."""
    return ((found - truth).abs().max() / truth.abs().max().clamp(min=floor)).item()


def truth_and_its_own_error(function, inputs):
    """In float64, and how far rounding errors of the inputs alone can move it."""
    exact = [x.double() for x in inputs]
    truth = outputs_and_gradients(function, exact)
    moved = outputs_and_gradients(function, [x * (1 + 3e-16) for x in exact])
    return truth, [100 * error(a, b) for a, b in zip(moved, truth, strict=True)]


@constraints
@pytest.mark.parametrize("inverted", [False, True])
@given(case=cases())
def test_float32_agrees_with_the_float64_reference(case, constraint, inverted):
    """Values, log-determinants and all four gradients to 1e-5."""
    shift = reference.SHIFTS[constraint]
    function = reference.inverse if inverted else reference.forward
    truth, own = truth_and_its_own_error(lambda *x: function(*x, shift), case)
    assume(max(own) < 1e-5)  # else the map is chaotic there: no two arithmetics agree
    kernel = planar_flow_inverse if inverted else planar_flow
    found = outputs_and_gradients(lambda *x: kernel(*x, constraint), case)
    for name, a, b in zip("end ladj z w u b".split(), found, truth, strict=True):  # noqa: SIM905
        assert a.dtype == torch.float32
        assert a.shape == b.shape, name
        assert error(a.double(), b) < 1e-5, name


@constraints
@pytest.mark.parametrize("inverted", [False, True])
@given(case=cases())
def test_float64_agrees_with_the_reference(case, constraint, inverted):
    shift = reference.SHIFTS[constraint]
    case = [x.double() for x in case]
    function = reference.inverse if inverted else reference.forward
    truth, own = truth_and_its_own_error(lambda *x: function(*x, shift), case)
    assume(max(own) < 1e-5)
    kernel = planar_flow_inverse if inverted else planar_flow
    found = outputs_and_gradients(lambda *x: kernel(*x, constraint), case)
    for a, b, tolerance in zip(found, truth, own, strict=True):
        # Where tanh saturates the reference's own 1 - t² is only good to 1e-16, not relatively.
        assert error(a, b, floor=1.0) < 1e-10 + 10 * tolerance


@constraints
@given(case=cases())
def test_inverse_undoes_the_map(case, constraint):
    """f(f⁻¹(y)) = y: to 1e-12 in float64 and 1e-5 in float32, times how much f magnifies z."""
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        y, w, u, b = (x.to(dtype) for x in case)
        z, ladj = planar_flow_inverse(y, w, u, b, constraint)
        again, forward_ladj = planar_flow(z, w, u, b, constraint)
        # What rounding of all that goes in comes to behind f's magnification.
        eps, rounding = torch.finfo(dtype).eps, 0.0
        generator = torch.Generator().manual_seed(0)
        for _ in range(6):
            moved = (
                x * (1 + eps * torch.randint(-1, 2, x.shape, generator=generator).to(x))
                for x in (z, w, u, b)
            )
            moved = planar_flow(*moved, constraint)[0]
            rounding = max(rounding, (moved - again).abs().max().item())
        size = 1 + y.abs().max() + u.abs().max()
        assert ((again - y).abs() <= bound * size + 50 * rounding).all()
        assert error(forward_ladj, -ladj, floor=1.0) < 1000 * max(bound, rounding)


@constraints
# Beyond a scale of 2, f⁻¹ itself magnifies rounding errors.
@pytest.mark.parametrize(("scale", "tolerance"), [(0.3, 1e-9), (1.0, 1e-9), (3.0, 1e-3)])
def test_round_trip_both_ways(constraint, scale, tolerance):
    """At ordinary parameters, plainly."""
    torch.manual_seed(0)
    shapes = (200, 5), (200, 8, 5), (200, 8, 5), (200, 8)
    z, w, u, b = (torch.randn(*s, dtype=torch.float64) for s in shapes)
    w, u = scale / 5**0.5 * w, scale / 5**0.5 * u
    z_K, ladj = planar_flow(z, w, u, b, constraint)
    back, back_ladj = planar_flow_inverse(z_K, w, u, b, constraint)
    torch.testing.assert_close(planar_flow(back, w, u, b, constraint)[0], z_K, rtol=0, atol=1e-12)
    torch.testing.assert_close(back, z, rtol=0, atol=tolerance)
    torch.testing.assert_close(back_ladj, -ladj, rtol=0, atol=tolerance)


@constraints
@pytest.mark.parametrize("wu", [-1e4, -745.0, -300.0, -40.0, -12.0, -3.0, 0.0, 2.0, 1e4])
@pytest.mark.parametrize("tau", [0.0, 1e-300, 1e-20, 1e-9, 1e-3, 0.5, 1.0, 30.0, -2.0, 9e3])
def test_the_root_near_every_singularity(wu, tau, constraint):
    """One dimension, w = 1: f(f⁻¹(y)) = y whatever c = w·û, down to -1."""
    y, w, u = (torch.tensor([[v]], dtype=torch.float64) for v in (tau, 1.0, wu))
    for function in (planar_flow_inverse, _reference_inverse):
        z, ladj = function(y, w[:, None], u[:, None], torch.zeros(1, 1).double(), constraint)
        assert z.isfinite().all()
        assert ladj.isfinite().all()
        again, _ = planar_flow(z, w[:, None], u[:, None], torch.zeros(1, 1).double(), constraint)
        assert (again - y).abs().item() <= 1e-12 * max(1.0, abs(tau), 4e-4 * abs(wu))


def _reference_inverse(y, w, u, b, constraint):
    return reference.inverse(y, w, u, b, reference.SHIFTS[constraint])


@constraints
@given(seed=st.integers(0, 2**32), D=st.integers(1, 20), K=st.integers(1, 16), S=st.integers(1, 3))
def test_the_inverse_is_finite_at_float32_extremes(seed, D, K, S, constraint):
    generator = torch.Generator().manual_seed(seed)

    def extreme(*shape: int) -> Tensor:
        return 200 * torch.rand(shape, generator=generator) - 100

    z, ladj = planar_flow_inverse(
        extreme(S, 6, D), extreme(6, K, D), extreme(6, K, D), extreme(6, K), constraint
    )
    assert z.isfinite().all()
    assert ladj.isfinite().all()


@constraints
@pytest.mark.parametrize("function", [planar_flow, planar_flow_inverse])
@pytest.mark.parametrize("points", [(3,), (4, 3)])
def test_gradients(function, points, constraint):
    torch.manual_seed(0)
    shapes = (*points, 2), (3, 4, 2), (3, 4, 2), (3, 4)
    inputs = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(lambda *x: function(*x, constraint), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: function(*x, constraint), inputs)


@pytest.mark.parametrize("S", [1, 5, 5000])
def test_results_do_not_depend_on_the_number_of_threads(S):
    torch.manual_seed(0)
    P = 3000 // min(S, 1000)
    shapes = (S, P, 7), (P, 9, 7), (P, 9, 7), (P, 9)
    inputs = [torch.randn(*s) for s in shapes]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(outputs_and_gradients(planar_flow, inputs))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)


def test_shared_parameters_are_not_copied(monkeypatch):
    """1,000 samples of four sets: the kernel is given the four sets where they lie."""
    seen = []

    def watch(z, w, u, b, shift, inverted):
        seen.append((tuple(z.shape), w.data_ptr(), tuple(w.shape), b.data_ptr()))
        return z, z[..., 0]

    shapes = (1000, 4, 3), (4, 5, 3), (4, 5, 3), (4, 5)
    z, w, u, b = (torch.randn(*s) for s in shapes)
    monkeypatch.setattr(ops, "planar_map", watch)
    planar_flow(z, w, u, b)
    assert seen == [((1000, 4, 3), w.data_ptr(), (4, 5, 3), b.data_ptr())]


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("S", [1, 4])
def test_opcheck(inverted, S):
    torch.manual_seed(0)
    shapes = (S, 3, 2), (3, 4, 2), (3, 4, 2), (3, 4)
    inputs = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]
    op = ops.planar_inverse if inverted else ops.planar
    torch.library.opcheck(op, (*inputs, 0.5, True))
    end, _, kept = op(*inputs, 0.5, True)
    arguments = (*inputs[1:], kept, torch.ones_like(end), torch.ones(S, 3).double())
    detached = tuple(x.detach() for x in arguments)
    torch.library.opcheck(ops.planar_pullback, (*detached, 0.5, inverted))


@pytest.mark.parametrize("function", [planar_flow, planar_flow_inverse])
@pytest.mark.usefixtures("unchecked")
def test_compiled_without_a_graph_break(function):
    torch.manual_seed(0)
    inputs = [torch.randn(*s) for s in ((6, 5, 2), (5, 4, 2), (5, 4, 2), (5, 4))]

    def loss(*x):
        end, ladj = function(*x, "centred")
        return end.square().sum() + ladj.sum(), end

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = outputs_and_gradients(compiled, inputs)
    for a, b in zip(found, outputs_and_gradients(loss, inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_meta_tensors_have_shapes_only():
    inputs = [torch.zeros(*s, device="meta") for s in ((5, 2), (5, 4, 2), (5, 4, 2), (5, 4))]
    end, ladj = planar_flow(*inputs)
    assert (end.shape, ladj.shape) == ((5, 2), (5,))


@pytest.mark.usefixtures("unchecked")
def test_exported():
    class Flow(torch.nn.Module):
        def forward(self, z, w, u, b):
            return planar_flow(z, w, u, b)

    inputs = tuple(torch.randn(*s) for s in ((5, 2), (5, 4, 2), (5, 4, 2), (5, 4)))
    program = torch.export.export(Flow(), inputs)
    torch.testing.assert_close(program.module()(*inputs), planar_flow(*inputs))


def test_autocast_computes_in_float32():
    torch.manual_seed(0)
    z, w, u, b = (torch.randn(*s) for s in ((5, 2), (5, 4, 2), (5, 4, 2), (5, 4)))
    exact = planar_flow(z, w.bfloat16().float(), u, b)
    with torch.autocast("cpu", torch.bfloat16):
        z_K, ladj = planar_flow(z, w.bfloat16(), u, b)
    assert z_K.dtype == ladj.dtype == torch.float32
    torch.testing.assert_close((z_K, ladj), exact)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_vmap_and_jvp_use_the_reference():
    torch.manual_seed(0)
    z, w, u, b = (torch.randn(*s).double() for s in ((7, 2), (4, 2), (4, 2), (4,)))
    mapped, _ = torch.vmap(lambda z: planar_flow(z, w, u, b))(z)
    torch.testing.assert_close(mapped, planar_flow(z, w, u, b)[0])
    J = torch.func.jacfwd(lambda z: planar_flow(z, w, u, b)[0])(z[0])
    _, ladj = planar_flow(z[0], w, u, b)
    torch.testing.assert_close(torch.linalg.slogdet(J).logabsdet, ladj)


def test_without_numba_the_reference_serves_and_says_so_once(monkeypatch):
    monkeypatch.setattr(ops, "find_spec", lambda package: None)
    monkeypatch.setattr(ops, "_usable", ops._usable.copy())
    monkeypatch.setattr(ops, "_tried", set())
    inputs = [torch.randn(*s) for s in ((5, 2), (5, 4, 2), (5, 4, 2), (5, 4))]
    with pytest.warns(UserWarning, match="numba is not installed.*pip install numba"):
        first = planar_flow(*inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        planar_flow(*inputs)
    expected = reference.forward(*inputs, reference.SHIFTS["paper"])
    torch.testing.assert_close(first, expected, rtol=0, atol=0)


@constraints
@pytest.mark.parametrize("function", [planar_flow, planar_flow_inverse])
@pytest.mark.parametrize("samples", [(), (3,)])
@pytest.mark.parametrize("spoilt", range(4))
def test_nan_stays_with_its_datum(function, samples, spoilt, constraint):
    """A NaN in any input reaches the end and the log-determinant of its own datum, and no other."""
    P, K, D = 20, 3, 4
    inputs = [torch.randn(*samples, P, D), torch.randn(P, K, D), torch.randn(P, K, D)]
    inputs.append(torch.randn(P, K))
    clean = function(*inputs, constraint)
    inputs[spoilt] = inputs[spoilt].clone()
    # Datum 7; of the points, its first sample only
    inputs[spoilt][(*[0] * (inputs[spoilt].dim() - 2), 7, 1) if spoilt in (0, 3) else (7, 1, 2)] = (
        torch.nan
    )
    hit = torch.zeros(*samples, P, dtype=torch.bool)
    hit[..., 7] = True
    if samples and spoilt == 0:
        hit[1:] = False
    end, ladj = function(*inputs, constraint)
    assert torch.equal(end.isnan().any(-1), hit)
    assert torch.equal(ladj.isnan(), hit)
    for before, after in zip(clean, (end, ladj), strict=True):
        assert torch.equal(before[~hit], after[~hit])


@constraints
@pytest.mark.parametrize("function", [planar_flow, planar_flow_inverse])
@pytest.mark.parametrize("samples", [(), (3,)])
def test_gradients_where_some_w_are_zero(function, samples, constraint):
    inputs = [torch.randn(*samples, 5, 4), torch.randn(5, 3, 4), torch.randn(5, 3, 4)]
    inputs.append(torch.randn(5, 3))
    inputs[1][:, 1] = 0
    inputs = [x.double() for x in inputs]
    inverted = function is planar_flow_inverse
    plain = partial(
        reference.inverse if inverted else reference.forward, shift=reference.SHIFTS[constraint]
    )
    expected = outputs_and_gradients(lambda z, *sets: plain(z, *sets), inputs)
    got = outputs_and_gradients(lambda *x: function(*x, constraint), inputs)
    for mine, truth in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-9, atol=1e-10)

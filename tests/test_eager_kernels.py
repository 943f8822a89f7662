"""Draws, their densities and the Bernoulli likelihood on a CPU, against PyTorch in float64."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from flowvae.distributions.draw import (
    _Draw,
    _DrawPlanar,
    _StandardLogProb,
    draw,
    draw_planar,
    standard_log_prob,
)
from flowvae.eager import eager
from flowvae.flows import planar_flow
from flowvae.likelihoods.bernoulli import Bernoulli, _kernel_fits

pytest.importorskip("numba")

sizes = st.integers(1, 9)
scales = st.sampled_from([0.0, 1.0, 30.0, 1e4])


def relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float(
        (found.double() - truth).detach().abs().max() / truth.detach().abs().max().clamp(min=1.0)
    )


def bernoulli_in_float64(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    x = x.double().expand(logits.shape)
    return -functional.binary_cross_entropy_with_logits(logits.double(), x, reduction="none").sum(
        -1
    )


@given(sizes, sizes, st.sampled_from([1, 15, 64, 65, 784, 2000]), scales, st.integers(0, 99))
def test_bernoulli_and_its_slope_are_those_of_float64(S, B, P, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(B, P, generator=generator)
    x = x if seed % 2 else x.round()
    logits = (scale * torch.randn(S, B, P, generator=generator)).requires_grad_()
    assert _kernel_fits(x, logits)
    found = Bernoulli()(logits).log_prob(x)
    truth = bernoulli_in_float64(logits, x)
    assert relative(found, truth) < 1e-6
    bars = torch.randn(S, B, generator=generator)
    (slope,) = torch.autograd.grad(found, logits, bars)
    (expected,) = torch.autograd.grad(truth, logits, bars.double())
    torch.testing.assert_close(slope, expected.float(), atol=2e-6, rtol=1e-6)
    with torch.no_grad():
        assert torch.equal(Bernoulli()(logits).log_prob(x), found)


def test_bernoulli_at_the_ends_of_float32():
    big = torch.finfo(torch.float32).max / 4
    logits = torch.tensor(
        [[-big, -100.0, -1e-38, 0.0, 1e-38, 88.0, 100.0, big]], requires_grad=True
    )
    for x in (torch.zeros(1, 8), torch.ones(1, 8)):
        for i in range(8):
            one, pixel = logits[:, i : i + 1], x[:, i : i + 1]
            truth = bernoulli_in_float64(one, pixel)
            found = Bernoulli()(one).log_prob(pixel)
            torch.testing.assert_close(found, truth.float(), atol=1e-37, rtol=1e-6)
            (slope,) = torch.autograd.grad(found, logits)
            (expected,) = torch.autograd.grad(truth, logits)
            torch.testing.assert_close(slope, expected, atol=1e-37, rtol=1e-6)


def test_a_bad_logit_spoils_its_own_datum_only():
    logits = torch.zeros(2, 3, 70)
    logits[1, 2, 66] = math.nan
    found = Bernoulli()(logits).log_prob(torch.ones(3, 70))
    assert found.isnan().tolist() == [[False] * 3, [False, False, True]]


def test_bernoulli_can_be_differentiated_twice():
    logits, x = torch.randn(2, 4, 3).transpose(0, 2).requires_grad_(), torch.rand(4, 2)
    assert _kernel_fits(x, logits)

    def curvature(values: torch.Tensor) -> torch.Tensor:
        (slope,) = torch.autograd.grad(values.square().sum(), logits, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), logits)[0]

    truth = curvature(bernoulli_in_float64(logits, x))
    torch.testing.assert_close(
        curvature(Bernoulli()(logits).log_prob(x)), truth, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("openmp", [True, False])
def test_threads_change_no_bit_of_bernoulli(monkeypatch, openmp):
    from flowvae.kernels import team

    monkeypatch.setattr(team, "_WORTH_A_THREAD", 1)
    if not openmp:
        monkeypatch.setattr(team, "_team", lambda: None)
    x, logits = torch.rand(50, 784), torch.randn(3, 50, 784).requires_grad_()

    def results(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        assert team.threads_for(1e6, 1000) == threads
        out = Bernoulli()(logits).log_prob(x)
        return [out, *torch.autograd.grad(out.sum(), logits)]

    try:
        pairs = list(zip(results(1), results(3), strict=True))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(one, three) for one, three in pairs)


def draw_in_float64(loc, log_var, eps):
    loc, log_var, eps = loc.double(), log_var.double(), eps.double()
    z = loc + (0.5 * log_var).exp() * eps
    # In z it would cancel where σ is far below μ.
    of_noise = torch.distributions.Normal(0.0, 1.0).log_prob(eps).sum(-1)
    return z, of_noise - 0.5 * log_var.sum(-1)


@given(sizes, sizes, sizes, st.sampled_from([0.0, 1.0, 30.0]), st.integers(0, 99))
def test_draws_and_their_gradients_are_those_of_float64(S, B, D, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    heads = (scale * torch.randn(B, 2 * D + 3, generator=generator)).requires_grad_()
    loc, log_var, _ = heads.split([D, D, 3], -1)  # rows that do not follow each other
    eps = torch.randn(S, B, D, generator=generator)
    z, log_q = draw(loc, log_var, eps)
    assert type(z.grad_fn).__name__ == "_DrawBackward"
    truth = draw_in_float64(loc, log_var, eps)
    torch.testing.assert_close(z, truth[0].float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_q, truth[1].float(), rtol=1e-6, atol=1e-5)
    bars = [torch.randn(t.shape, generator=generator) for t in (z, log_q)]
    (found,) = torch.autograd.grad([z, log_q], heads, bars, retain_graph=True)
    (expected,) = torch.autograd.grad(truth, heads, [bar.double() for bar in bars])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@given(sizes, sizes, sizes, sizes, st.sampled_from([0.0, 1.0, 10.0]), st.integers(0, 99))
def test_a_draw_and_its_flows_as_one_node_are_what_they_are_apart(S, B, K, D, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, D), (B, D), (B, K, D), (B, K, D), (B, K)]
    inputs = [scale * torch.randn(s, generator=generator).double() for s in shapes]
    eps = torch.randn(S, B, D, generator=generator).double()
    constraint = ("paper", "centred")[seed % 2]
    bars = [torch.randn(s, generator=generator).double() for s in ((S, B, D), (S, B), (S, B))]

    def both(function) -> tuple[list[torch.Tensor], ...]:
        loc, log_var, *flow = leaves = [x.clone().requires_grad_() for x in inputs]
        out = function(loc, log_var, eps, tuple(flow), constraint)
        return list(out), list(torch.autograd.grad(out, leaves, bars))

    def apart(loc, log_var, eps, flow, constraint):
        z, log_base = draw(loc, log_var, eps)
        end, ladj = planar_flow(z, *flow, constraint)
        return end, log_base, ladj

    found, expected = both(draw_planar), both(apart)
    assert type(found[0][0].grad_fn).__name__ == "_DrawPlanarBackward"
    for ours, theirs in zip(found, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_a_draw_and_its_flows_pass_gradcheck_once_and_twice():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (3, 2), (3, 4, 2), (3, 4, 2), (3, 4)]
    inputs = [torch.randn(s, generator=generator).double().requires_grad_() for s in shapes]
    eps = torch.randn(2, 3, 2, generator=generator).double()

    def function(loc, log_var, *flow):
        return _DrawPlanar.apply(loc, log_var, eps, *flow, "centred")

    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(function, inputs)


def test_draws_pass_gradcheck_once_and_twice():
    loc, log_var = (torch.randn(3, 2).double().requires_grad_() for _ in range(2))
    eps = torch.randn(4, 3, 2).double()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda m, v: _Draw.apply(m, v, eps), (loc, log_var))
        assert check(_StandardLogProb.apply, (eps.clone().requires_grad_(),))


def test_what_the_kernels_do_not_take_goes_through_pytorch():
    loc, log_var, eps = torch.randn(3, 2), torch.randn(3, 2), torch.randn(5, 3, 2)
    expected = draw(loc, log_var, eps)
    wider = draw(loc.expand(5, 3, 2), log_var.expand(5, 3, 2), eps)
    mapped = torch.vmap(draw, in_dims=(None, None, 0))(loc, log_var, eps.unsqueeze(1))
    for found in (wider, [t.squeeze(1) for t in mapped]):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
    x, logits = torch.rand(3, 4), torch.randn(3, 4)
    mapped = torch.vmap(lambda row, line: Bernoulli()(line).log_prob(row))(x, logits)
    torch.testing.assert_close(mapped, Bernoulli()(logits).log_prob(x))
    double = Bernoulli()(logits.double()).log_prob(x.double())
    torch.testing.assert_close(double.float(), mapped)
    with pytest.raises(RuntimeError, match="device"):
        draw(loc, log_var, eps.to("meta"))
    many = torch.randn(5000, 3, 2)
    torch.testing.assert_close(standard_log_prob(many[:7]), standard_log_prob(many)[:7])


def test_somebody_watches():
    x = torch.zeros(2)
    seen = []

    def look(y: torch.Tensor) -> torch.Tensor:
        seen.append(eager(y))
        return y * 2

    look(x)
    torch.vmap(look)(x)
    torch.func.grad(lambda y: look(y).sum())(x)
    look(x.as_subclass(type("Mine", (torch.Tensor,), {})))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still used to export models
        torch.jit.trace(look, x, check_trace=False)
    assert seen == [True, False, False, False, False]

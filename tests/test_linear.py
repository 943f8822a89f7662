"""The layer that skips the zeros of data, against a product in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowvae
from flowvae.networks import linear
from flowvae.networks.linear import DataLinear

pytest.importorskip("numba")


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """However small the product is."""
    if not linear._team().available():
        pytest.skip("PyTorch has no OpenMP library here that other code can call")
    monkeypatch.setattr(linear, "_WORTH", 0)


def layer(P: int, H: int, rectified: bool, seed: int) -> DataLinear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DataLinear(P, H, rectified)


def data(B: int, P: int, share: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, P, generator=generator)
    return x * (torch.rand(B, P, generator=generator) < share)


def in_float64(module: DataLinear, x: torch.Tensor, bar: torch.Tensor) -> list[torch.Tensor]:
    weight, bias = (p.detach().double().requires_grad_() for p in module.parameters())
    y = x.double() @ weight.t() + bias
    y = y.relu() if module.rectified else y
    return [y, *torch.autograd.grad(y, [weight, bias], bar.double())]


# Around every width that work is cut into: 8 numbers, 64 columns, 104 and 200 rows.
@given(
    st.sampled_from([1, 2, 7, 8, 9, 33, 100, 130]),
    st.sampled_from([1, 7, 8, 103, 104, 105, 199, 200, 201, 409, 784]),
    st.sampled_from([64, 65, 100, 128, 131, 500]),
    st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    st.booleans(),
    st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_float64(B, P, H, share, rectified, seed):
    module, x = layer(P, H, rectified, seed), data(B, P, share, seed)
    bar = torch.randn(B, H, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "_DENSE", 2.0)  # whatever the data
        y = module(x)
        with torch.no_grad():
            assert torch.equal(module(x), y)
    assert type(y.grad_fn).__name__ == "_AffineBackward"
    found = [y, *torch.autograd.grad(y, list(module.parameters()), bar)]
    for mine, truth in zip(found, in_float64(module, x, bar), strict=True):
        assert mine.shape == truth.shape
        torch.testing.assert_close(mine, truth.float(), rtol=1e-5, atol=1e-5)


def test_it_is_taken_for_data_of_zeros_and_no_other():
    module = layer(200, 128, True, 0)
    sparse, dense = data(50, 200, 0.1, 0), data(50, 200, 0.5, 0)

    def node(x: torch.Tensor) -> str:
        return type(module(x).grad_fn).__name__

    assert node(sparse) == "_AffineBackward"
    assert node(dense) == "ReluBackward0"
    assert node(sparse.clone().requires_grad_()) == "ReluBackward0"
    assert node(sparse.t().contiguous().t()) == "ReluBackward0"
    assert node(sparse.unsqueeze(0)) == "ReluBackward0"
    with torch.autocast("cpu", torch.bfloat16):
        assert node(sparse) == "ReluBackward0"
    assert type(module.double()(sparse.double()).grad_fn).__name__ == "ReluBackward0"


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38, 1e-42])
def test_a_strange_number_meets_its_weights_only(value):
    module, x = layer(100, 64, False, 1), data(9, 100, 0.1, 1)
    x[3, 57] = value
    y = module(x)
    assert torch.equal(
        y.isfinite().all(1), in_float64(module, x, y.detach())[0].float().isfinite().all(1)
    )
    bar = torch.ones_like(y)
    gradient = torch.autograd.grad(y, module.weight, bar)[0]
    torch.testing.assert_close(gradient, bar.t() @ x, equal_nan=True)


def test_a_sum_that_is_not_a_number_stays_so_when_rectified():
    module, x = layer(100, 64, True, 1), data(9, 100, 0.1, 1)
    with torch.no_grad():
        module.bias[5] = math.nan
    y = module(x)
    assert y.isnan().nonzero()[:, 1].unique().tolist() == [5]
    (gradient,) = torch.autograd.grad(y.nan_to_num().sum(), module.bias)
    assert gradient.isfinite().all()


def test_threads_change_no_bit(monkeypatch):
    monkeypatch.setattr(linear._team(), "_WORTH_A_THREAD", 1)
    module, x = layer(784, 500, True, 2), data(100, 784, 0.2, 2)

    def results(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        y = module(x)
        return [y, *torch.autograd.grad(y.square().sum(), list(module.parameters()))]

    try:
        runs = [results(threads) for threads in (1, 2, 5)]
    finally:
        torch.set_num_threads(1)
    for run in runs[1:]:
        assert all(map(torch.equal, runs[0], run))


def test_it_can_be_differentiated_twice():
    module, x = layer(50, 64, True, 3), data(20, 50, 0.1, 3)

    def curvature(y: torch.Tensor) -> torch.Tensor:
        (slope,) = torch.autograd.grad(y.pow(3).sum(), module.weight, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), module.bias)[0]

    truth = torch.nn.functional.linear(x, module.weight, module.bias).relu()
    torch.testing.assert_close(curvature(module(x)), curvature(truth), rtol=1e-4, atol=1e-4)


def test_it_is_a_linear_layer_to_everybody_else():
    module = layer(30, 64, False, 4)
    plain = torch.nn.Linear(30, 64)
    plain.load_state_dict(module.state_dict())
    module.load_state_dict(plain.state_dict())
    assert module.weight.stride() == copy.deepcopy(module).weight.stride() == (1, 64)
    x = data(10, 30, 0.1, 4)
    torch.testing.assert_close(torch.vmap(module)(x), plain(x))


def test_an_encoder_begins_with_it_and_keeps_its_names():
    config = flowvae.Config(hidden_dims=[70, 65], activation="relu")
    model = flowvae.build_vae(config, (6, 5))
    assert any(isinstance(module, DataLinear) for module in model.encoder.modules())
    names = [name for name, _ in model.encoder.named_parameters()]
    assert names == [f"layers.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")]

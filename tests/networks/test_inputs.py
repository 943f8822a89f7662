"""What an encoder is given beside the values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Column
from flowvae.networks.images import ImageShape
from flowvae.networks.inputs import RowEncoder, encoder_shape, pairs
from flowvae.priors import FlowPrior, GaussianMixture, NormalPrior
from flowvae.registry import NETWORKS, POSTERIORS
from flowvae.runs import read_model, write_model

LABEL = [Column("label", "categorical", ("a", "b", "c"))]


class _Kept(nn.Module):
    def forward(self, x):
        self.seen = x
        return x


def test_a_vector_is_values_mask_and_condition():
    body = _Kept()
    encoder = RowEncoder(body, (4,), 2, missing=True, images=False, transform=torch.log1p)
    rows = torch.tensor([[1.0, math.nan, 3.0, 0.0, 7.0, 8.0]])
    encoder(rows)
    values = torch.tensor([1.0, 0.0, 3.0, 0.0]).log1p()
    expected = torch.cat([values, torch.tensor([1.0, 0, 1, 1, 7, 8])])
    torch.testing.assert_close(body.seen[0], expected)
    assert encoder_shape((4,), 2, True, False, "mlp") == (10,)


@pytest.mark.parametrize("data_shape", [(5, 6), (2, 5, 6), (5, 6, 2)])
def test_images_have_the_mask_and_the_condition_as_further_channels(data_shape):
    body = _Kept()
    encoder = RowEncoder(body, data_shape, 3, missing=True, images=True, transform=None)
    P = math.prod(data_shape)
    x = torch.rand(2, P)
    x[0, 4] = math.nan
    encoder(torch.cat([x, torch.eye(3)[:2]], 1))
    shape = ImageShape.of(data_shape, "test")
    channels = 2 * shape.channels + 3
    assert encoder_shape(data_shape, 3, True, True, "conv") == ImageShape(channels, 5, 6)
    planes = body.seen.reshape(2, channels, 5, 6)
    there = x.nan_to_num(0.0).reshape(2, *data_shape)
    if data_shape == (5, 6, 2):
        there = there.permute(0, 3, 1, 2)
    torch.testing.assert_close(planes[:, : shape.channels], there.reshape(2, -1, 5, 6))
    mask = planes[:, shape.channels : 2 * shape.channels]
    assert int((mask == 0).sum()) == 1
    torch.testing.assert_close(planes[0, -3:, 0, 0], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(planes[1, -3:, 4, 5], torch.tensor([0.0, 1, 0]))


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("prior", ["standard_normal", "normal", "gaussian_mixture", "flow"])
def test_every_network_and_prior_takes_conditions_and_gaps_and_is_read_back(
    network, prior, tmp_path
):
    config = resolve_config(
        network=network, prior=prior, missing="model", hidden_dims=(8,), num_flows=1
    )
    model = flowvae.build_vae(config, (6, 5), condition=LABEL)
    with torch.no_grad():  # what starts at zero would hide a mistake
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.rand(4, 6, 5)
    x[1] = math.nan
    x[2, 3, 1] = math.nan
    terms = model.elbo_terms(model.rows(x, ["a", "b", "c", "a"]), 3)
    loss = -terms.log_weight.mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
    assert (terms.log_likelihood[:, 1] == 0).all()
    write_model(tmp_path / "m.safetensors", model, config)
    again, _, _ = read_model(tmp_path / "m.safetensors", "cpu")
    assert again.condition == model.condition
    assert again.missing
    for condition in ("a", "c"):
        torch.testing.assert_close(
            again.sample(3, torch.Generator().manual_seed(0), condition=condition),
            model.sample(3, torch.Generator().manual_seed(0), condition=condition),
        )


@pytest.mark.parametrize("posterior", [name for name in POSTERIORS if name != "spline"])
def test_every_posterior_takes_conditions_and_gaps(posterior):
    config = resolve_config(posterior=posterior, missing="model", hidden_dims=(8,))
    model = flowvae.build_vae(config, (6,), condition=LABEL).double()
    x = torch.rand(5, 6, dtype=torch.float64)
    x[0, 1:4] = math.nan
    x[1] = math.nan
    assert model.elbo(x, 4, condition="b").isfinite().all()
    # What is missing has no say, whatever stands beside it; what is there has.
    other = x.clone()
    other[2, 0] = 0.99 * other[2, 0]
    generator = torch.Generator()
    first = model.elbo(x, 2, generator.manual_seed(0), condition="b")
    second = model.elbo(other, 2, generator.manual_seed(0), condition="b")
    assert first[2] != second[2]
    torch.testing.assert_close(first[[0, 1, 3, 4]], second[[0, 1, 3, 4]])


@pytest.mark.parametrize("kind", [NormalPrior, GaussianMixture, FlowPrior])
def test_priors_given_a_condition_integrate_to_one_and_describe_their_draws(kind):
    torch.manual_seed(0)
    prior = kind(latent_dim=2, condition_dim=3).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(0.5).add_(0.05 * torch.randn_like(parameter))
    y = torch.eye(3, dtype=torch.float64)
    p = prior(y)
    assert p.batch_shape == (3,)
    axis = torch.linspace(-12, 12, 361, dtype=torch.float64)
    with torch.no_grad():
        z = torch.cartesian_prod(axis, axis)
        density = p.log_prob(z[:, None]).exp() * (axis[1] - axis[0]) ** 2
        drawn = p.rsample((20_000,), torch.Generator().manual_seed(0))
        alone = prior(y[1]).log_prob(z)
    torch.testing.assert_close(density.sum(0), torch.ones(3).double(), atol=1e-3, rtol=0)
    assert (density[:, 0] - density[:, 1]).abs().max() > 1e-6
    torch.testing.assert_close(alone, p.log_prob(z[:, None])[:, 1].detach())
    assert drawn.shape == (20_000, 3, 2)
    value = torch.sin(z + 0.3)
    expected = torch.einsum("gb,gd->bd", density, value)
    sines = torch.sin(drawn + 0.3)
    assert ((sines.mean(0) - expected).abs() < 5 * sines.std(0) / len(drawn) ** 0.5).all()


def test_a_prior_made_of_the_posterior_takes_no_condition():
    with pytest.raises(ValueError, match="prior: vampprior is made of"):
        flowvae.build_vae(resolve_config(prior="vampprior"), (6,), condition=LABEL)


def test_dropout_of_the_encoder_is_a_gap_where_gaps_are_modelled():
    from flowvae.objectives import Elbo

    model = flowvae.build_vae(resolve_config(missing="model", hidden_dims=(8,)), (40,))
    seen = []
    hook = model.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    x = torch.rand(50, 40)
    _, terms = Elbo(encoder_dropout=0.3)(model, x, torch.Generator().manual_seed(0))
    hook.remove()
    share = seen[0].isnan().float().mean().item()
    assert share == pytest.approx(0.3, abs=0.05)
    assert torch.equal(seen[0].nan_to_num(-1)[~seen[0].isnan()], x[~seen[0].isnan()])
    assert terms.log_likelihood.isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [{}, {"gated": True}, {"network": "gated_conv"}, {"missing": "model"}],
    ids=["mlp", "gated", "conv", "missing"],
)
def test_posteriors_of_every_condition_are_those_of_rows(settings):
    """x is read once for all conditions where the body is an MLP: the same to rounding."""
    config = resolve_config(likelihood="gaussian", **settings)
    model = flowvae.build_vae(config, (8, 12), condition=LABEL).double()
    x = torch.randn(5, 96, dtype=torch.float64)
    if model.missing:
        x[0, 3] = x[4, :50] = torch.nan
    every = torch.eye(3, dtype=torch.float64)
    noise = torch.randn(1, 15, 2, dtype=torch.float64)
    at_once, each = (
        q.at_noise(noise).z for q in (model.posteriors(x, every), model.posterior(pairs(x, every)))
    )
    torch.testing.assert_close(at_once, each)

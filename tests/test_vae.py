"""The model: its ELBO term by term, its bounds against quadrature, its shapes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import flowvae
from flowvae.config import resolve_config
from flowvae.evaluation import grid_log_prob, uniform_grid
from tests.helpers.vaes import data, small


@pytest.mark.parametrize("K", [0, 1, 5])
def test_elbo_is_the_formula(K):
    """Every term again, from the definition and the same noise."""
    model = small(K=K, scale=2.0)
    x = data(model)
    terms = model.elbo_terms(x, 4, torch.Generator().manual_seed(3))
    q = model.posterior(x)
    mu, log_var = q.base.loc, q.base.log_var
    eps = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    z_0 = mu + (0.5 * log_var).exp() * eps
    z_K, ladj = q.flow(z_0)
    logits = model.decoder(z_K)
    probability = torch.sigmoid(logits)
    log_px = (x * probability.log() + (1 - x) * (1 - probability).log()).sum(-1)
    log_q0 = -math.log(2 * math.pi) - 0.5 * log_var.sum(-1) - 0.5 * eps.square().sum(-1)
    log_pz = -math.log(2 * math.pi) - 0.5 * z_K.square().sum(-1)
    torch.testing.assert_close(terms.log_likelihood, log_px)
    torch.testing.assert_close(terms.log_base, log_q0)
    torch.testing.assert_close(terms.log_prior, log_pz)
    torch.testing.assert_close(terms.ladj, ladj)
    expected = (log_px + log_pz - log_q0 + ladj).mean(0)
    got = model.elbo(x, 4, torch.Generator().manual_seed(3))
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(terms.means()["elbo"], expected)


@pytest.mark.parametrize(("K", "constraint"), [(0, "paper"), (3, "paper"), (8, "centred")])
def test_importance_sampling_agrees_with_quadrature(K, constraint):
    """D = 2: log p(x) by 20,000 weights within its error of the integral; the ELBO below it."""
    model = small(K=K, constraint=constraint, scale=2.0)
    x = data(model)
    generator = torch.Generator().manual_seed(0)
    # Some training: q must reach where p(z|x) has its mass, or the weights' own error is unknown.
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        (-model.elbo(x, 8, generator).mean()).backward()
        optimizer.step()
    box = torch.full((2,), 8.0, dtype=torch.float64)
    truth = grid_log_prob(model, x, -box, box, 400)
    torch.testing.assert_close(grid_log_prob(model, x, -box, box, 200), truth, atol=1e-3, rtol=0)
    with torch.no_grad():
        weights = model.elbo_terms(x, 20_000, generator).log_weight
        elbo, bound = weights.mean(0), weights.logsumexp(0) - math.log(20_000)
        relative = (weights - bound).exp()
        error = relative.std(0) / 20_000**0.5  # of log p by the delta method
        assert (error < 0.1).all()
        assert ((bound - truth).abs() < 5 * error + 1e-3).all()
        assert (elbo < truth + 5 * weights.std(0) / 20_000**0.5).all()
        assert (truth - elbo > 1e-3).any()


@pytest.mark.parametrize("D", [1, 2])
def test_generated_data_has_total_probability_one(D):
    """Σ_x p(x) over all binary x of 5 pixels, each by quadrature."""
    model = small(D=D, shape=(5,), scale=2.0)
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 5)
    box = torch.full((D,), 8.0, dtype=torch.float64)
    total = grid_log_prob(model, x, -box, box, 300).logsumexp(0)
    assert total.item() == pytest.approx(0.0, abs=1e-10)


def test_log_prob_with_one_sample_is_the_elbo_and_grows_with_samples():
    model = small(scale=2.0)
    x = data(model)
    with torch.no_grad():
        one = model.iw_bound(x, 1, torch.Generator().manual_seed(0))
        torch.testing.assert_close(one, model.elbo(x, 1, torch.Generator().manual_seed(0)))
        bounds = [model.iw_bound(x.repeat(500, 1), S).mean() for S in (1, 4, 64)]
    assert bounds[0] < bounds[1] < bounds[2]


def test_chunks_of_samples_change_nothing(monkeypatch):
    """The same draws in one piece and in many."""
    model = small()
    x = data(model)
    samples = 3 * model.draws_at_once(len(x)) + 5
    noise = torch.randn(samples, 6, 2, dtype=torch.float64)
    drawn = 0

    def draw(*shape, **_):
        nonlocal drawn
        piece = noise[drawn : drawn + shape[0][0]]
        drawn += len(piece)
        return piece

    monkeypatch.setattr("torch.randn", draw)
    whole = model.elbo_terms(x, samples).log_weight
    drawn = 0
    counts = [len(t.ladj) for t in model.term_chunks(x, samples)]
    assert len(counts) == 4
    assert sum(counts) == samples
    drawn = 0
    torch.testing.assert_close(model.elbo(x, samples), whole.mean(0))
    drawn = 0
    bound = whole.logsumexp(0) - math.log(samples)
    torch.testing.assert_close(model.iw_bound(x, samples), bound)


@pytest.mark.parametrize("shape", [(7,), (4, 3), (3, 4, 5), (1, 6), (6, 1), (1, 1, 5), (1,)])
@pytest.mark.parametrize(("D", "K"), [(1, 0), (1, 2), (5, 3)])
def test_any_data_shape_and_sizes(shape, D, K):
    model = flowvae.build_vae(resolve_config(latent_dim=D, num_flows=K, hidden_dims=(9, 8)), shape)
    x = torch.rand(11, *shape)
    P = math.prod(shape)
    z, log_q = model.posterior(x).rsample_and_log_prob((4,))
    assert z.shape == (4, 11, D)
    assert log_q.shape == (4, 11)
    assert model.elbo(x.flatten(1), 3).shape == (11,)
    assert model.iw_bound(x, 3).shape == (11,)
    assert model.sample(6).shape == (6, P)
    assert model.reconstruct(x).shape == (11, P)
    (-model(x).log_weight.mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_wrong_shape_is_named():
    model = small()
    with pytest.raises(ValueError, match=r"x: .*\(\.\.\., 12\) or .*4, 3.*got \(2, 5\)"):
        model.posterior(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="samples: expected at least 1, got 0"):
        model.elbo(data(model), samples=0)


def test_samples_are_decoded_prior_draws():
    """The flow takes no part in generation: the mean image is the decoder's mean under p(z)."""
    model = small(scale=3.0)
    with torch.no_grad():
        drawn = model.sample(40_000, torch.Generator().manual_seed(0))
        z, log_volume = uniform_grid(*torch.tensor([[-8.0, -8.0], [8.0, 8.0]]).double(), 300)
        p = model.decode(z).mean
        expected = (p * (model.prior().log_prob(z) + log_volume).exp()[:, None]).sum(0)
    error = drawn.std(0) / 40_000**0.5
    assert ((drawn.mean(0) - expected).abs() < 5 * error).all()


def test_the_users_own_networks_fit():
    """VAE puts together any parts that keep to the arrows."""
    config = resolve_config(latent_dim=3)
    encoder = nn.Sequential(nn.Linear(20, 8), nn.Tanh())
    parts = flowvae.build_vae(config, (20,))
    head = type(parts.posterior_head)(8, 3, 2, "centred")
    decoder = nn.Linear(3, 20)
    model = flowvae.VAE(
        encoder, head, parts.prior, decoder, parts.likelihood, latent_dim=3, data_shape=(20,)
    )
    assert model.elbo(torch.rand(5, 20), 2).shape == (5,)


def test_building_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    first, second = small(seed=4), small(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(small(seed=5).parameters()), next(first.parameters()))


def test_the_bound_goes_by_its_old_name_too():
    assert flowvae.VAE.log_prob is flowvae.VAE.iw_bound

"""Every family of the registries with every other: terms, gradients, saving, CUDA."""

from __future__ import annotations

import pytest
import torch

import flowvae
from flowvae.registry import LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS
from tests.helpers.families import SMALL, data, model, where_they_have_it

# Every name at least once, and every pair of a posterior with a prior.
PAIRS = [{"posterior": q, "prior": p} for q in POSTERIORS for p in PRIORS]


PAIRS += [{"likelihood": name} for name in LIKELIHOODS]


PAIRS += [{"likelihood": "gaussian", "sigma": "per_pixel"}, {"gated": True}]


PAIRS += [{"network": n, "likelihood": "logistic_mixture"} for n in NETWORKS]


PAIRS += [{"posterior": q, "amortized": False} for q in POSTERIORS]


def named(settings: dict) -> str:
    return "-".join(map(str, settings.values()))


@pytest.mark.parametrize("settings", PAIRS, ids=named)
def test_every_combination_has_elbo_samples_and_gradients_everywhere(settings):
    torch.manual_seed(0)
    made = model(dtype=torch.float32, **settings)
    x = data(made)
    assert made.elbo(x, 3).shape == made.log_prob(x, 3).shape == (5,)
    with torch.no_grad():
        assert made.sample(7).shape == (7, made.data_dim)
        assert made.reconstruct(x).shape == x.shape
    (-made.elbo_terms(x, 2).log_weight.mean()).backward()
    for key, parameter in made.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("settings", PAIRS, ids=named)
def test_what_is_saved_is_what_is_loaded(settings, tmp_path):
    made = model(dtype=torch.float32, **settings).eval()
    with torch.no_grad():  # so that a value that was not read back would show
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    config = where_they_have_it(**{**SMALL, **settings})
    flowvae.Run(tmp_path, config, made).save_model()
    again = flowvae.load(tmp_path)
    x = data(made)
    for use in (
        lambda m, g: m.elbo(x, 2, g),
        lambda m, g: m.sample(3, g),
    ):
        first, second = (use(m, torch.Generator().manual_seed(1)) for m in (made, again))
        assert torch.equal(first, second)


@pytest.mark.cuda
@pytest.mark.parametrize("settings", PAIRS, ids=named)
def test_cuda_agrees_with_the_cpu(settings):
    torch.manual_seed(0)
    made = model(**settings)
    x = data(made)
    q = made.posterior(x)
    z = q.rsample()
    expected = made.decode(z).log_prob(x), made.prior().log_prob(z), q.log_prob(z)
    made, x, z = made.cuda(), x.cuda(), z.cuda()
    got = made.decode(z).log_prob(x), made.prior().log_prob(z), made.posterior(x).log_prob(z)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-8, atol=1e-8)
    assert made.sample(3).device.type == "cuda"

"""One suite over everything the registries name: a new family is tested by its line there."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import flowvae
from flowvae.config import Config, build, layered
from flowvae.data.columns import Column
from flowvae.distributions import FlowDistribution, LatentDistribution, MixtureDistribution
from flowvae.priors import VampPrior
from flowvae.registry import LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS

H = 6  # features
FLOWS = [name for name in POSTERIORS if "gaussian" not in name]


def where_they_have_it(**settings) -> Config:
    """Settings for many families at once: as in files of version 1, each takes what it knows."""
    return layered({"version": 1, **settings})


def posterior(
    name: str, D=2, K=3, batch=4, scale=1.0, amortized=True, seed=0, dtype=torch.float64
) -> LatentDistribution:
    """q(z|x) of a fresh head for random features, everything it writes scaled up."""
    config = where_they_have_it(
        posterior=name,
        latent_dim=D,
        num_flows=K,
        amortized=amortized,
        constraint="centred",
        num_orthogonal=2,
        num_householder=3,
        flow_hidden_dims=(16, 16),
    )
    torch.manual_seed(seed)
    head = build("posterior", config.model.posterior, in_features=H, latent_dim=D).to(dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(scale)
    return head(torch.randn(batch, H, dtype=dtype))


@pytest.mark.parametrize("amortized", [True, False])
@pytest.mark.parametrize("D", [1, 3])
@pytest.mark.parametrize("name", POSTERIORS)
def test_shapes_and_density_of_the_draws(name, D, amortized):
    """log q of what was drawn, and of the same points by the inverse."""
    q = posterior(name, D, scale=1.5, amortized=amortized)
    assert (q.batch_shape, q.event_shape) == ((4,), (D,))
    z, log_base, ladj = q.rsample_terms((5,))
    assert z.shape == (5, 4, D)
    assert log_base.shape == ladj.shape == (5, 4)
    torch.testing.assert_close(q.log_prob(z), log_base - ladj, rtol=1e-6, atol=1e-6)
    assert q.rsample().shape == (4, D)
    assert q.sample((2, 3)).shape == (2, 3, 4, D)
    assert q.log_prob(z[0]).shape == (4,)


@pytest.mark.parametrize("name", POSTERIORS)
def test_draws_come_from_the_generator(name):
    q = posterior(name)
    before = torch.get_rng_state()
    first = q.rsample((4,), torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(q.rsample((4,), torch.Generator().manual_seed(5)), first)
    assert not torch.equal(q.rsample((4,), torch.Generator().manual_seed(6)), first)


@pytest.mark.parametrize(("K", "scale"), [(1, 6.0), (3, 1.5)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FLOWS)
def test_log_determinant_is_autograds(name, seed, K, scale):
    """One layer at large parameters, where three would leave slogdet without digits; and three."""
    D = 2 + 2 * seed
    q = posterior(name, D, K, batch=1, scale=scale, seed=seed)
    assert isinstance(q, FlowDistribution)
    for z in 2 * torch.randn(5, 1, D, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(lambda z: q.flow(z)[0], z)
        sign, truth = torch.linalg.slogdet(jacobian.reshape(D, D))
        _, ladj = q.flow(z)
        assert sign.abs().item() == 1
        torch.testing.assert_close(ladj[0], truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", FLOWS)
def test_the_inverse_is_exact(name, scale):
    q = posterior(name, 4, scale=scale)
    assert isinstance(q, FlowDistribution)
    z = torch.randn(7, 4, 4, dtype=torch.float64)
    z_K, ladj = q.flow(z)
    again, inverse_ladj = q.flow_inverse(z_K)
    torch.testing.assert_close(again, z, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(inverse_ladj, -ladj, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", POSTERIORS)
def test_density_integrates_to_one(name):
    q = posterior(name, 2, batch=1)
    axis = torch.linspace(-9, 9, 401, dtype=torch.float64)
    with torch.no_grad():
        density = q.log_prob(torch.cartesian_prod(axis, axis).unsqueeze(-2)).exp()
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", FLOWS)
def test_first_flows_and_detached(name):
    q = posterior(name, 3)
    assert isinstance(q, FlowDistribution)
    z = torch.randn(5, 4, 3, dtype=torch.float64)
    assert q.num_flows == 3
    z_0, ladj = q.first(0).flow(z)
    torch.testing.assert_close(z_0, z)
    assert ladj.abs().max() == 0
    torch.testing.assert_close(q.first(3).flow(z), q.flow(z))
    assert not torch.allclose(q.first(1).flow(z)[0], q.flow(z)[0])


@pytest.mark.parametrize("name", POSTERIORS)
def test_detached_is_the_same_distribution_without_gradients_to_its_parameters(name):
    q = posterior(name, 3)
    z = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    fixed = q.detached().log_prob(z)
    torch.testing.assert_close(fixed, q.log_prob(z))
    graph, seen = [fixed.grad_fn], set()
    while graph:  # every leaf that the value depends on
        node = graph.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        assert leaf is None or leaf is z
        graph += [parent for parent, _ in node.next_functions]


@pytest.mark.parametrize("amortized", [True, False])
@pytest.mark.parametrize("name", POSTERIORS)
def test_no_flows_is_the_gaussian(name, amortized):
    q = posterior(name, 3, K=0, amortized=amortized)
    z, log_q = q.rsample_and_log_prob((5,))
    base = getattr(q, "base", q)
    torch.testing.assert_close(log_q, base.log_prob(z))
    torch.testing.assert_close(q.log_prob(z), log_q)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", POSTERIORS)
def test_float32_extremes_are_finite(name, seed):
    """Every number a head writes is ±100; log-density, draw and gradients stay finite."""
    config = where_they_have_it(posterior=name, num_flows=4, num_orthogonal=2)
    torch.manual_seed(seed)
    head = build("posterior", config.model.posterior, in_features=H, latent_dim=3)
    with torch.no_grad():
        head.heads.weight.zero_()
        signs = torch.randint(0, 2, head.heads.bias.shape) * 2 - 1
        head.heads.bias.copy_(100.0 * signs)
        if name == "iaf":  # whose weights have gradients like z², beyond float32 at σ = exp(50)
            head.heads.bias.clamp_(-30, 30)
    features = torch.randn(5, H, requires_grad=True)
    z, log_q = head(features).rsample_and_log_prob((3,))
    assert z.isfinite().all()
    assert log_q.isfinite().all()
    # z may be as large as exp(50); its own gradient is what must not be NaN.
    (log_q.sum() + torch.tanh(z).sum()).backward()
    for key, parameter in head.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key


# Priors, likelihoods and networks, and all of them together.

TABLE = (
    Column("age", "numeric"),
    Column("colour", "categorical", ("a", "b", "c")),
    Column("smoker", "binary", ("no", "yes")),
    Column("weight", "numeric"),
)
SMALL = {
    "hidden_dims": (8,),
    "flow_hidden_dims": (8,),
    "channels": (3, 4),
    "num_components": 5,
    "num_prior_flows": 2,
    "num_orthogonal": 2,
    "num_householder": 2,
    "num_mixtures": 2,
    "num_categories": 2,
    "constraint": "centred",
    "latent_dim": 3,
    "num_flows": 2,
}


def model(shape=(3, 2), dtype=torch.float64, **settings) -> flowvae.VAE:
    """A small model; a table's likelihood gets a table's shape."""
    table = settings.get("likelihood") == "mixed"
    config = where_they_have_it(**{**SMALL, **settings})
    columns = TABLE if table else None
    return flowvae.build_vae(config, (6,) if table else shape, columns=columns).to(dtype)


def data(model: flowvae.VAE, count=5) -> Tensor:
    """Binary data, which lies in every support; of a table, one-hot where it must be."""
    x = (torch.rand(count, model.data_dim) > 0.5).to(next(model.parameters()).dtype)
    if model.columns is not None:
        x[:, 1:4] = torch.eye(3)[torch.randint(0, 3, (count,))].to(x)
    return x


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


@pytest.mark.parametrize("name", PRIORS)
def test_prior_integrates_to_one_and_describes_its_draws(name):
    torch.manual_seed(0)
    made = model(prior=name, latent_dim=2)
    p = made.prior()
    axis = torch.linspace(-9, 9, 361, dtype=torch.float64)
    with torch.no_grad():
        z = torch.cartesian_prod(axis, axis)
        density = p.log_prob(z).exp() * (axis[1] - axis[0]) ** 2
        drawn = p.rsample((20_000,), torch.Generator().manual_seed(0))
    assert density.sum().item() == pytest.approx(1.0, abs=1e-4)
    # Means of a bounded function by both.
    value = torch.sin(z + 0.3)
    expected = (density[:, None] * value).sum(0)
    sines = torch.sin(drawn + 0.3)
    assert ((sines.mean(0) - expected).abs() < 5 * sines.std(0) / len(drawn) ** 0.5).all()


def test_vampprior_is_the_mean_of_the_posteriors_at_its_pseudo_inputs():
    made = model(prior="vampprior", posterior="planar")
    p = made.prior()
    assert isinstance(p, MixtureDistribution)
    z = torch.randn(4, 3, dtype=torch.float64)
    assert isinstance(made.prior, VampPrior)
    u = made.prior.pseudo_inputs
    assert ((u > 0) & (u < 1)).all()
    each = torch.stack([made.posterior(u[m : m + 1]).log_prob(z) for m in range(5)])
    torch.testing.assert_close(p.log_prob(z), each.logsumexp(0) - math.log(5))
    # Trained through both of its ways: the pseudo-inputs and the encoder.
    p.log_prob(z).sum().backward()
    assert all(w.grad is not None for w in (made.prior.inputs, *made.encoder.parameters()))


@pytest.mark.parametrize("shape", [(28, 20), (3, 9, 7), (1, 1), (8, 6, 3), (5, 5, 2)])
@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "mlp"])
def test_convolutions_take_any_image(network, shape):
    made = model(shape, network=network, channels=(2, 3, 4), likelihood="discretized_logistic")
    x = data(made, 2)
    terms = made.elbo_terms(x, 3)
    assert terms.log_likelihood.shape == (3, 2)
    # One datum at a time is the same: nothing mixes the batch or the samples.
    z = torch.randn(3, 2, 3, dtype=torch.float64)
    together = made.decode(z).mean
    apart = made.decode(z[1, 1]).mean
    torch.testing.assert_close(together[1, 1], apart)
    assert made.decoder.get_submodule("1").bias.shape == (2 * made.data_dim,)


@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "mlp"])
def test_an_output_belongs_to_its_pixel(network):
    """A pixel's two outputs, mean and scale, lie where the likelihood looks for them."""
    for shape in ((2, 4, 6), (6, 5, 2)):
        made = model(shape, network=network, likelihood="gaussian", sigma="per_pixel")
        x = torch.zeros(shape, dtype=torch.float64)
        spot = (1, 2, 3) if shape[0] == 2 else (2, 3, 1)
        with torch.no_grad():
            x[spot] = 1
            bias = made.decoder.get_parameter("1.bias")
            bias[: made.data_dim] = 50 * x.flatten()
            mean = made.decode(torch.zeros(3, dtype=torch.float64)).mean.reshape(shape)
        assert mean.argmax() == x.argmax()
        # The map before it: neighbours in the image are neighbours in the picture of gradients.
        features = made.encoder(x.reshape(1, -1).requires_grad_())
        assert features.shape == (1, 8)


def test_networks_name_what_they_cannot_take():
    with pytest.raises(flowvae.UserError, match=r"network: resnet expects images .*got .*\(7,\)"):
        model((7,), network="resnet")


def test_spline_without_zuko_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko.flows", None)
    with pytest.raises(flowvae.UserError, match=r"spline needs zuko.*flowvae\[spline\]"):
        posterior("spline")

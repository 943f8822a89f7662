"""Objectives: every estimator's mean gradient is its bound's own, from quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import flowvae
from flowvae import UserError
from flowvae.config import resolve_config
from flowvae.distributions import DiagonalGaussian, LatentDistribution
from flowvae.likelihoods import Gaussian
from flowvae.objectives import Dreg, Elbo, Iwae, Objective, Stl, Warmup, build_objective
from flowvae.priors import StandardNormal
from flowvae.registry import OBJECTIVES, POSTERIORS
from tests.helpers.linear_gaussian import LinearGaussian
from tests.helpers.making import trainer_of

# What learns from labels has tests of its own.
BOUNDS = [name for name in OBJECTIVES if not OBJECTIVES[name].semi_supervised]
ALL = [Elbo, Stl, Iwae, Dreg]


def parameters(model: flowvae.VAE) -> list[Tensor]:
    return list(model.parameters())


def bound_by_quadrature(
    model: flowvae.VAE, x: Tensor, objective: Objective, step: int, nodes: int = 40
) -> Tensor:
    """The objective's bound at D = 1 and S ≤ 2 with the integral over ε done exactly."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    axis, weight = torch.from_numpy(points), torch.from_numpy(weights / math.sqrt(2 * math.pi))
    S = objective.samples
    eps = torch.cartesian_prod(*[axis] * S).reshape(-1, S).T  # (S, G)
    probability = torch.cartesian_prod(*[weight] * S).reshape(-1, S).prod(-1)
    q = model.posterior(x)
    z_0 = q.base.loc + (0.5 * q.base.log_var).exp() * eps[..., None]  # (S, G, 1), one datum
    z, ladj = q.flow(z_0)
    log_q = -0.5 * (eps**2 + q.base.log_var.sum() + math.log(2 * math.pi)) - ladj
    joint, beta = objective._weights(step)
    log_weight = joint * model.decode(z).log_prob(x) - beta * (
        log_q - joint * model.prior().log_prob(z)
    )
    if objective.importance_weighted:
        return (probability * (log_weight.logsumexp(0) - math.log(S))).sum()
    return (probability * log_weight.mean(0)).sum()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("warmup", [None, Warmup("kl", 10, 0.3), Warmup("tempering", 10, 0.3)])
def test_gradients_are_unbiased(kind, warmup):
    """Within 4.5 standard errors of quadrature's, for encoder and decoder, q bent by its flows."""
    truth = LinearGaussian(D=1, P=3)
    model = truth.model(shift=0.4, widen=1.6, K=2)
    with torch.no_grad():
        model.get_parameter("posterior_head.heads.bias")[4:6] = torch.tensor(
            [1.5, -0.7]
        )  # u: no identity
    x = truth.data(1)
    objective = kind(samples=2, warmup=warmup, beta=1.0 if warmup else 0.8)
    step = 4
    exact = bound_by_quadrature(model, x, objective, step)
    expected = torch.autograd.grad(exact, parameters(model))
    generator = torch.Generator().manual_seed(0)
    found: list[list[Tensor]] = []
    values = []
    for _ in range(30):
        loss, _ = objective(model, x.expand(800, -1), generator, step)
        found.append(torch.autograd.grad(-loss, parameters(model)))
        values.append(-loss.item())
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - exact.item()) < 4.5 * error
    for all_found, wanted in zip(zip(*found, strict=True), expected, strict=True):
        batches = torch.stack(all_found)
        error = batches.std(0) / math.sqrt(len(batches))
        assert wanted.abs().max() > 1e-3
        assert ((batches.mean(0) - wanted).abs() <= 4.5 * error + 1e-9).all()


@pytest.mark.parametrize("kind", [Stl, Dreg])
def test_path_gradients_have_no_variance_at_the_true_posterior(kind):
    truth = LinearGaussian(D=2, P=4)
    model = truth.model(K=3)
    head = list(model.posterior_head.parameters())
    loss, terms = kind(samples=3)(model, truth.data(50))
    assert all(g.abs().max() < 1e-10 for g in torch.autograd.grad(loss, head))
    torch.testing.assert_close(-loss, truth.marginal.log_prob(truth.data(50)).mean())
    assert terms.log_weight.std(0).max() < 1e-9
    plain, _ = Elbo(samples=3)(model, truth.data(50))
    assert max(g.abs().max() for g in torch.autograd.grad(plain, head)) > 0.01


def test_dreg_keeps_its_signal_as_samples_grow():
    """The ratio of mean to deviation of the encoder's gradient: DReG's far above IWAE's."""
    truth = LinearGaussian(D=2, P=4)
    model = truth.model(shift=0.3, widen=1.3, K=0)
    x = truth.data(1).expand(500, -1)
    ratios = {}
    for kind in (Iwae, Dreg):
        generator, found = torch.Generator().manual_seed(0), []
        for _ in range(40):
            loss, _ = kind(samples=100)(model, x[:20], generator)
            (g,) = torch.autograd.grad(loss, [model.posterior_head.heads.bias])
            found.append(g[:2])
        batches = torch.stack(found)
        ratios[kind] = (batches.mean(0).abs() / batches.std(0)).mean().item()
    assert ratios[Dreg] > 3 * ratios[Iwae]


@pytest.mark.parametrize("name", BOUNDS)
def test_terms_are_reported_without_weights(name):
    """Whatever is minimised, what is reported is the plain ELBO of the same draws."""
    model = flowvae.build_vae(resolve_config(hidden_dims=(8,)), (6, 5)).double()
    x = torch.rand(7, 30, dtype=torch.float64)
    config = resolve_config(objective=name, samples=3, warmup="kl", warmup_steps=10, beta=2.0)
    loss, terms = build_objective(config.objective, 5)(
        model, x, torch.Generator().manual_seed(1), 2
    )
    expected = model.elbo_terms(x, 3, torch.Generator().manual_seed(1))
    for got, wanted in zip(terms, expected, strict=True):
        torch.testing.assert_close(got, wanted)
        assert not got.requires_grad
    weight = 2.0 * (0.01 + 0.99 * 2 / 10)
    log_weight = expected.log_likelihood - weight * expected.kl
    wanted = log_weight.mean()
    if name in ("iwae", "dreg"):
        wanted = (log_weight.logsumexp(0) - math.log(3)).mean()
    torch.testing.assert_close(loss, -wanted)


@pytest.mark.parametrize("name", BOUNDS)
def test_what_the_encoder_does_not_see_the_likelihood_sees(name):
    model = flowvae.build_vae(resolve_config(hidden_dims=(8,)), (30, 20)).double()
    x = 0.5 + torch.rand(50, 600, dtype=torch.float64)
    config = resolve_config(objective=name, samples=2, encoder_dropout=0.3)
    seen: list[Tensor] = []
    hook = model.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    _, terms = build_objective(config.objective, 5)(model, x, torch.Generator().manual_seed(1))
    hook.remove()
    (got,) = seen
    kept = got != 0
    torch.testing.assert_close(got[kept], x[kept] / 0.7)
    assert kept.double().mean().item() == pytest.approx(0.7, abs=5 * (0.21 / x.numel()) ** 0.5)
    # The same draws by hand: the mask first, then the noise.
    generator = torch.Generator().manual_seed(1)
    torch.rand(x.shape, generator=generator, dtype=x.dtype)
    sample = model.posterior(got).rsample_terms((2,), generator)
    for mine, wanted in zip(terms, model.terms_at(x, sample), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_tempering_weighs_the_joint():
    model = flowvae.build_vae(resolve_config(hidden_dims=(8,)), (6, 5)).double()
    x = torch.rand(7, 30, dtype=torch.float64)
    ramp = Warmup("tempering", 9900)
    for step in (0, 100, 9900, 10**6):
        loss, terms = Elbo(warmup=ramp)(model, x, torch.Generator().manual_seed(1), step)
        beta = min(1.0, 0.01 + step / 10_000)  # Rezende & Mohamed's own
        free_energy = (
            terms.log_base - terms.ladj - beta * (terms.log_likelihood + terms.log_prior)
        ).mean()
        torch.testing.assert_close(loss, free_energy)


@pytest.mark.parametrize("kind", ["kl", "tempering"])
def test_a_step_on_the_device_is_the_same_step(kind):
    model = flowvae.build_vae(resolve_config(hidden_dims=(8,)), (6, 5))
    x = torch.rand(7, 30)
    objective = Dreg(samples=2, warmup=Warmup(kind, 50))
    for step in (0, 20, 50, 70):
        losses = [
            objective(model, x, torch.Generator().manual_seed(1), given)[0]
            for given in (step, torch.tensor(step), torch.tensor(float(step)))
        ]
        gradients = [torch.autograd.grad(loss, parameters(model)) for loss in losses]
        for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
            torch.testing.assert_close(loss, losses[0])
            for a, b in zip(gradient, gradients[0], strict=True):
                torch.testing.assert_close(a, b)


def test_free_bits_leave_a_small_kl_alone():
    model = flowvae.build_vae(resolve_config(hidden_dims=(8,)), (6, 5))
    x = torch.rand(50, 30)
    _, terms = Elbo(samples=50)(model, x, torch.Generator().manual_seed(0))
    kl = terms.kl.mean().item()
    for nats, free in ((0.5 * kl, False), (2.0 * kl, True)):
        loss, terms = Elbo(samples=50, free_bits=nats)(model, x, torch.Generator().manual_seed(0))
        expected = max(terms.kl.mean().item(), nats) - terms.log_likelihood.mean().item()
        assert loss.item() == pytest.approx(expected)
        plain = Elbo(samples=50, beta=0.0 if free else 1.0)
        wanted, _ = plain(model, x, torch.Generator().manual_seed(0))
        for a, b in zip(
            torch.autograd.grad(loss, parameters(model)),
            torch.autograd.grad(wanted, parameters(model)),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


@given(
    loc=st.floats(-4, 4),
    log_var=st.floats(-6, 1),
    nats=st.floats(0.1, 20),
    weight=st.sampled_from([0.01, 0.3, 1.0]),
)
def test_free_bits_under_tempering_clamp_the_kl_itself(loc, log_var, nats, weight):
    """With KL(N(m, s²) ‖ N(0, 1)) in closed form: from above λ the entropy has its gradient -½."""
    kl = 0.5 * (math.exp(log_var) + loc**2 - 1 - log_var)
    assume(abs(kl - nats) > 0.2)
    draws = 40_000
    q_log_var = torch.tensor([log_var], dtype=torch.float64, requires_grad=True)

    class Head(torch.nn.Module):
        def forward(self, x):
            return DiagonalGaussian(x.new_full((len(x), 1), loc), q_log_var.expand(len(x), 1))

    likelihood = Gaussian(sigma=1.0).double()
    model = flowvae.VAE(
        torch.nn.Identity(), Head(), StandardNormal(1).double(), torch.nn.Identity(), likelihood,
        latent_dim=1, data_shape=(1,),
    )  # fmt: skip
    x = torch.zeros(1, 1, dtype=torch.float64)
    objective = Elbo(draws, free_bits=nats, warmup=Warmup("tempering", 100, weight))
    loss, _ = objective(model, x, torch.Generator().manual_seed(0), 0)
    (found,) = torch.autograd.grad(loss, q_log_var)
    second = math.exp(log_var)  # of E z² = m² + s², whose half is in E log p(z) and in E log p(x|z)
    expected = weight * second / 2 + (weight - 1) * second / 2
    expected += (second - 1) / 2 if kl > nats else 0.0
    assert found.item() == pytest.approx(expected, abs=0.03 * (1 + second + abs(loc)))


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="samples: expected at least 1, got 0"):
        Elbo(samples=0)
    with pytest.raises(ValueError, match="beta: expected a finite number of at least 0, got nan"):
        Stl(beta=math.nan)
    with pytest.raises(ValueError, match=r"encoder_dropout: expected a number in \[0, 1\), got 1"):
        Elbo(encoder_dropout=1.0)
    with pytest.raises(ValueError, match="free_bits: expected 0 with objective Dreg"):
        Dreg(free_bits=1.0)
    with pytest.raises(UserError, match="free_bits: an option of the objective elbo"):
        resolve_config(objective="iwae", free_bits=2.0)
    with pytest.raises(
        UserError,
        match="objective: expected one of elbo, stl, iwae, dreg, m2, or module:Class",
    ):
        resolve_config(objective="vimco")


class OneWay(LatentDistribution):
    """A posterior that can be drawn from, and no more."""

    def __init__(self, inner: LatentDistribution) -> None:
        self.inner = inner
        super().__init__(inner.batch_shape, inner.event_shape, validate_args=False)

    def rsample_terms(self, sample_shape=(), generator=None):
        return self.inner.rsample_terms(sample_shape, generator)


class OneWayHead(torch.nn.Module):
    def __init__(self, in_features: int, latent_dim: int) -> None:
        super().__init__()
        self.loc = torch.nn.Linear(in_features, latent_dim)

    def forward(self, features):
        loc = self.loc(features)
        return OneWay(DiagonalGaussian(loc, torch.zeros_like(loc)))


def test_a_posterior_without_density_is_refused_before_anything_is_written(
    small_data, tmp_path, monkeypatch
):
    monkeypatch.setitem(POSTERIORS._entries, "one_way", OneWayHead)
    given = {"posterior": "one_way", "hidden_dims": (8,), "progress": False, "epochs": 1}
    before = torch.get_rng_state()
    with pytest.raises(UserError, match="objective: dreg needs a posterior with log_prob"):
        flowvae.train(dataset=small_data, out=tmp_path / "a", objective="dreg", **given)
    assert not (tmp_path / "a").exists()
    assert torch.equal(torch.get_rng_state(), before)
    flowvae.train(dataset=small_data, out=tmp_path / "b", objective="iwae", samples=3, **given)


@pytest.mark.parametrize("name", BOUNDS)
def test_every_objective_trains(name, small_data):
    config = resolve_config(
        objective=name, samples=4, hidden_dims=(16,), batch_size=32, num_flows=2,
        warmup="kl", warmup_epochs=2,
    )  # fmt: skip
    trainer = trainer_of(config, small_data)
    means = [
        np.mean([terms.log_weight.mean().item() for terms in trainer.steps()]) for _ in range(15)
    ]
    assert means[-1] > means[0] + 0.3
    assert trainer.step == 15 * len(trainer.batches)
    assert trainer.objective.warmup is not None
    assert trainer.objective.warmup.steps == 2 * len(trainer.batches)

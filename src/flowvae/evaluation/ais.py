"""log p(x) by annealed importance sampling, and a check of it from both sides.

From a start s(z) with density known, prior or q(z|x), to p(x, z) through T densities

    log f_t(z) = (1 - β_t) log s(z) + β_t log p(x, z),        0 = β_0 < … < β_T = 1.

Each chain draws z_0 ~ s, and for t = 1 … T adds (β_t - β_{t-1}) (log p(x, z) - log s(z)) to its
log-weight and moves by a step of Hamiltonian Monte Carlo that leaves f_t as it is. The weights'
mean is p(x); the mean of its logarithm lies below log p(x), the less so the longer the chain.

Step sizes are learned in a shorter run beforehand, for each datum along the path, and then stand
still: steps that followed a chain's own past would bias its weight.

With x simulated from the model, the z that x was made from is a draw of p(z|x). Chains
run backwards from it have weights of mean 1/p(x), whose logarithm bounds log p(x) from above
(bidirectional Monte Carlo): between the two bounds lies the truth, on average over x.

Sources: Neal, "Annealed Importance Sampling", arXiv physics/9803008; "On the Quantitative Analysis
of Decoder-Based Generative Models", arXiv 1611.04273; "Sandwiching the marginal likelihood using
bidirectional Monte Carlo", arXiv 1511.02543.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.distributions import LatentDistribution
from flowvae.evaluation.estimates import Estimate, ignore
from flowvae.vae import VAE

__all__ = ["Annealed", "Sandwich", "Start", "annealed_importance_sampling", "bdmc"]

Start = Literal["prior", "posterior"]

_ACCEPTANCE = 0.65  # what the step sizes aim at, as in arXiv 1611.04273
_PILOT = 0.1  # length of the run that learns them, of the whole
_LEAST_PILOT = 50
_BURN_IN = 30  # steps at the start's own density, to find a first step size


@dataclass(frozen=True)
class Annealed:
    """What :func:`annealed_importance_sampling` found, (B,) each, float64, on the CPU, in nats.

    Args:
        log_prob: the logarithm of the mean weight; in expectation not above log p(x).
        standard_error: of it, from the spread of the chains' weights.
        ess: effective sample size of the chains.
        acceptance: share of steps accepted.
    """

    log_prob: Tensor
    standard_error: Tensor
    ess: Tensor
    acceptance: Tensor


@dataclass(frozen=True)
class Sandwich:
    """Bounds of the mean log p(x) over simulated data, in nats, (B,) for each datum.

    Args:
        lower: by chains from the start; in expectation below the truth.
        upper: by chains back from the z that x was made from; in expectation above it.
    """

    lower: Tensor
    upper: Tensor

    @property
    def gap(self) -> Estimate:
        """Upper minus lower: how far either can be off, mean over data and standard error."""
        return Estimate.of(self.upper - self.lower)


@torch.inference_mode(False)  # gradients are needed in here
def annealed_importance_sampling(
    model: VAE,
    x: Float[Tensor, "B P"],
    *,
    chains: int = 16,
    temperatures: int = 1000,
    leapfrog: int = 10,
    start: Start = "prior",
    generator: torch.Generator | None = None,
    advance: Callable[[int], None] = ignore,
) -> Annealed:
    """Estimate log p(x) by annealed importance sampling, all chains of a batch in parallel.

    Args:
        model: the model, in evaluation mode.
        x: the data, (B, P).
        chains: C per datum.
        temperatures: T ≥ 1.
        leapfrog: steps of a Hamiltonian trajectory; each needs a gradient of log p(x, z).
        start: ``"prior"``, or ``"posterior"``, q(z|x), which needs its density at given z.
        generator: of all draws.
        advance: called with the number of data done since the last call.

    Raises:
        ValueError: an argument out of range.
        NotImplementedError: start is ``"posterior"`` and q has no ``log_prob``.

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5)).eval()
        >>> found = annealed_importance_sampling(model, torch.rand(3, 30), temperatures=50)
        >>> found.log_prob.shape, bool((found.acceptance > 0.3).all())
        (torch.Size([3]), True)
    """
    _check(chains, temperatures, leapfrog, start)
    x = model.flatten(x.clone() if x.is_inference() else x)
    parts = []
    for part in x.split(model.draws_at_once(chains)):
        path = _Path(model, part, start, leapfrog, generator)
        steps = path.learn_steps(chains, temperatures)
        parts.append(_of_chains(*path.forward(chains, temperatures, steps)))
        advance(len(part))
    return Annealed(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.inference_mode(False)
def bdmc(
    model: VAE,
    count: int,
    *,
    like: Float[Tensor, "N R"] | None = None,
    chains: int = 16,
    temperatures: int = 1000,
    leapfrog: int = 10,
    start: Start = "prior",
    seed: int = 0,
    advance: Callable[[int], None] = ignore,
) -> Sandwich:
    """Bound log p(x) from both sides on data simulated from the model.

    How far the two are apart tells what annealed importance sampling with these settings can be
    off by on data like the model's own. All chains of a datum go back from the one z it came
    from.

    Args:
        model: the model, in evaluation mode.
        count: data to simulate.
        like: rows of data whose conditions, in turn, they are simulated under, and whose values
            that are missing they miss, too, unless the model draws which are missing; needed where
            the model has a condition.
        chains: as in :func:`annealed_importance_sampling`, and so are the next three.
        temperatures: T.
        leapfrog: steps of a trajectory.
        start: ``"prior"`` or ``"posterior"``.
        seed: of all draws.
        advance: called with the number of data done since the last call.

    Examples:
        >>> import flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5)).eval()
        >>> bdmc(model, 4, temperatures=50).gap.mean < 2
        True
    """
    _check(chains, temperatures, leapfrog, start)
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        z, x = _simulated(model, count, like, generator)
    lower, upper = [], []
    at_once = model.draws_at_once(chains)
    for part, exact in zip(x.split(at_once), z.split(at_once), strict=True):
        path = _Path(model, part, start, leapfrog, generator)
        steps = path.learn_steps(chains, temperatures)
        lower.append(_of_chains(*path.forward(chains, temperatures, steps))[0])
        back, _ = path.backward(exact.expand(chains, -1, -1), temperatures, steps)
        upper.append(-_of_chains(back, back)[0])
        advance(len(part))
    return Sandwich(torch.cat(lower), torch.cat(upper))


def _simulated(
    model: VAE, count: int, like: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """z ~ p(z) and rows x ~ p(x|z), (count, R), with conditions of others, and gaps."""
    if like is None:
        z, condition = model.draw_prior(count, generator)
        return z, model.draw(z, generator, condition)
    rows = like[torch.arange(count, device=like.device) % len(like)]
    values, condition = model.parts(rows)
    z, _ = model.draw_prior(count, generator, condition)
    x = model.draw(z, generator, condition).to(values)
    gaps = values.isnan()
    if model.missingness is not None:  # which are missing is part of what the model draws
        gaps = model.missingness.draw(x, generator)
    x = x.masked_fill(gaps, torch.nan) if model.missing else x
    return z, x if condition is None else torch.cat([x, condition], -1)


def _check(chains: int, temperatures: int, leapfrog: int, start: str) -> None:
    sizes = {"chains": chains, "temperatures": temperatures, "leapfrog": leapfrog}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if start not in get_args(Start):
        raise ValueError(f"start: expected one of {', '.join(get_args(Start))}, got {start!r}")


def _of_chains(log_weights: Tensor, acceptance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    C = len(log_weights)
    log_weights = log_weights.cpu().double()
    log_prob = log_weights.logsumexp(0) - math.log(C)
    relative = (log_weights - log_prob).exp()
    error = relative.std(0) / math.sqrt(C) if C > 1 else torch.full_like(log_prob, math.inf)
    return log_prob, error, C / relative.square().mean(0), acceptance.cpu().double()


def _schedule(temperatures: int) -> list[float]:
    """β_0 … β_T: a sigmoid, slow at both ends (arXiv 1611.04273, with its δ = 4)."""
    raw = [1 / (1 + math.exp(-4 * (2 * t / temperatures - 1))) for t in range(temperatures + 1)]
    return [(value - raw[0]) / (raw[-1] - raw[0]) for value in raw]


@dataclass
class _State:
    """Chains (C, B, D), with log s, log p(x, z) - log s and the gradients of both."""

    z: Tensor
    log_start: Tensor
    log_ratio: Tensor
    by_start: Tensor
    by_ratio: Tensor

    def log_f(self, beta: float) -> Tensor:
        return self.log_start + beta * self.log_ratio

    def slope(self, beta: float) -> Tensor:
        return self.by_start + beta * self.by_ratio

    def where(self, accepted: Tensor, other: _State) -> _State:
        """The other's chains where accepted (C, B), these elsewhere."""
        chosen = accepted.unsqueeze(-1)
        return _State(
            torch.where(chosen, other.z, self.z),
            torch.where(accepted, other.log_start, self.log_start),
            torch.where(accepted, other.log_ratio, self.log_ratio),
            torch.where(chosen, other.by_start, self.by_start),
            torch.where(chosen, other.by_ratio, self.by_ratio),
        )


class _Path:
    """The densities between s and p(x, z) for a batch of data, and the chains' steps there."""

    def __init__(
        self,
        model: VAE,
        x: Tensor,
        start: Start,
        leapfrog: int,
        generator: torch.Generator | None,
    ) -> None:
        self.model, self.x, self.leapfrog, self.generator = model, x, leapfrog, generator
        with torch.no_grad():
            self.start: LatentDistribution = (
                model.prior_at(x) if start == "prior" else model.posterior(x).detached()
            )
        self.from_prior = start == "prior"

    def first(self, chains: int) -> _State:
        shape = (chains,) if self.start.batch_shape else (chains, len(self.x))
        with torch.no_grad():
            z = self.start.rsample(shape, self.generator)
        return self.at(z)

    def at(self, z: Tensor) -> _State:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_start = self.start.log_prob(z)
            log_ratio = self.model.log_likelihood(self.x, z)
            if not self.from_prior:
                log_ratio = log_ratio + self.model.prior_at(self.x).log_prob(z) - log_start
            (by_ratio,) = torch.autograd.grad(log_ratio.sum(), z, retain_graph=True)
            (by_start,) = torch.autograd.grad(log_start.sum(), z)
        return _State(z.detach(), log_start.detach(), log_ratio.detach(), by_start, by_ratio)

    @torch.no_grad()
    def move(self, state: _State, beta: float, step: Tensor) -> tuple[_State, Tensor]:
        """One trajectory at f_β with step sizes (B,): the chains after it, and its acceptance."""
        # Jitter, drawn for each chain, keeps trajectories from running in circles.
        jitter = torch.empty_like(state.log_start).uniform_(0.8, 1.2, generator=self.generator)
        h = (step * jitter).unsqueeze(-1)
        momentum = torch.empty_like(state.z).normal_(generator=self.generator)
        energy = state.log_f(beta) - 0.5 * momentum.square().sum(-1)
        now = state
        momentum = momentum + 0.5 * h * now.slope(beta)
        for left in reversed(range(self.leapfrog)):
            now = self.at(now.z + h * momentum)
            momentum = momentum + (h if left else 0.5 * h) * now.slope(beta)
        change = now.log_f(beta) - 0.5 * momentum.square().sum(-1) - energy
        # A trajectory that left the floating-point numbers is refused.
        probability = change.clamp(max=0).exp().nan_to_num(0.0)
        draw = torch.empty_like(probability).uniform_(generator=self.generator)
        return state.where(draw < probability, now), probability

    def learn_steps(self, chains: int, temperatures: int) -> Tensor:
        """Log step sizes along the path, (M, B), by a run that is then thrown away."""
        M = max(min(_LEAST_PILOT, temperatures), int(_PILOT * temperatures))
        log_step = self.x.new_full((len(self.x),), math.log(0.2))
        state, learned = self.first(chains), []
        for beta in [0.0] * _BURN_IN + _schedule(M)[1:]:
            state, probability = self.move(state, beta, log_step.exp())
            log_step = log_step + 0.5 * (probability.mean(0) - _ACCEPTANCE)
            learned.append(log_step)
        return torch.stack(learned[_BURN_IN - 1 :])

    def forward(self, chains: int, temperatures: int, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Log-weights (C, B) of chains from the start, and the share accepted, (B,)."""
        betas = _schedule(temperatures)
        state = self.first(chains)
        log_weight = torch.zeros_like(state.log_start)
        accepted = torch.zeros_like(steps[0])
        for t in range(1, temperatures + 1):
            log_weight += (betas[t] - betas[t - 1]) * state.log_ratio
            state, probability = self.move(state, betas[t], _step(steps, t / temperatures))
            accepted += probability.mean(0)
        return log_weight, accepted / temperatures

    def backward(self, exact: Tensor, temperatures: int, steps: Tensor) -> tuple[Tensor, Tensor]:
        """The same from draws of p(z|x), (C, B, D), back to the start: weights of mean 1/p(x)."""
        betas = _schedule(temperatures)
        state = self.at(exact)
        log_weight = torch.zeros_like(state.log_start)
        accepted = torch.zeros_like(steps[0])
        for t in range(temperatures, 0, -1):
            state, probability = self.move(state, betas[t], _step(steps, t / temperatures))
            log_weight -= (betas[t] - betas[t - 1]) * state.log_ratio
            accepted += probability.mean(0)
        return log_weight, accepted / temperatures


def _step(steps: Tensor, at: float) -> Tensor:
    """Step sizes (B,) at a place in [0, 1] of the path, between those that were learned."""
    place = at * (len(steps) - 1)
    low = min(int(place), len(steps) - 2) if len(steps) > 1 else 0
    high = min(low + 1, len(steps) - 1)
    return torch.lerp(steps[low], steps[high], place - low).exp()

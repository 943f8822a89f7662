"""A better posterior for each datum, found from the encoder's answer in a few steps.

An encoder answers at once for all data and pays for it: its q(z|x) lies beside p(z|x). Where it
lies is cheap to mend. A Gaussian with full covariance, N(m, L Lᵀ), takes natural-gradient steps on
the datum's own ELBO. In coordinates where it is N(0, I), with g = ∇_z log p(x, z),

    ḡ = E[Lᵀ g],   Λ = -E[∇² log p(x, m + L ξ)] = -E[Lᵀ g ξᵀ]     (Stein's identity)
    Λ' = (1 - ρ) I + ρ Λ,   m ← m + ρ L Λ'⁻¹ ḡ,   L Lᵀ ← L Λ'⁻¹ Lᵀ

whose fixed point is the best Gaussian. The means are over pairs ±√D e_i of a turned basis, which
are exact for polynomials of degree 3; with fewer pairs than D, Λ is corrected in their span alone.

Sources: "Fast and Simple Natural-Gradient Variational Inference with Mixture of Exponential-family
Approximations", arXiv 1906.02914, for the steps; "Semi-Amortized Variational Autoencoders", arXiv
1802.02550, for refining an encoder's answer; "Cubature Kalman Filters", IEEE TAC 54 (2009), for the
points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.distributions import FullGaussian, LatentDistribution, SelectedDistribution
from flowvae.flows.householder import matvec

__all__ = ["LatentVariableModel", "natural_gradient_steps", "refine"]

_FIRST_RATE, _LAST_RATE = 1.0, 0.2
# In units where q is N(0, I): how far the mean may go in a step that looks at one pair of points
# (with the root of their number), and how much the precision in any direction may fall or grow.
_LONGEST_STEP, _CURVATURE = 1.8, (0.1, 16.0)
_STEEPEST = 1e6  # of a gradient in these units: their squares stay finite
_MOMENT_DRAWS = 32
_LEAST_DEVIATION = 1e-6
_STARTS, _COVERED = 8192, 3  # draws of the prior cover little of more dimensions
_PAIRS_AT_ONCE = 2**23  # of data and places
_NARROW = 0.05  # deviation of q at such a start, in deviations of the places
_HIGHER = 3.0  # nats that p(x, z) of another start must be higher by
# Few draws of a q with a heavy tail make it look better than it is, so the encoder's q must lead by
# so many nats to be kept.
_JUDGING_DRAWS, _CLEARLY_BETTER = 7, 1.0


@runtime_checkable
class LatentVariableModel(Protocol):
    """What is asked of a model, as of :class:`flowvae.VAE`."""

    latent_dim: int

    def flatten(self, x: Tensor, /) -> Tensor: ...

    def posterior(self, x: Tensor, /) -> LatentDistribution: ...

    def log_joint(self, x: Tensor, z: Tensor, /) -> Tensor: ...

    def log_joint_pairs(self, x: Tensor, z: Tensor, /) -> Tensor: ...

    def prior_draws(self, x: Tensor, n: int, generator: Any, /) -> Tensor: ...

    def draws_at_once(self, count: int = 1, /) -> int: ...


@torch.inference_mode(False)  # gradients are needed in here
def refine(
    model: LatentVariableModel,
    x: Float[Tensor, "B P"],
    *,
    steps: int = 6,
    samples: int | None = None,
    starts: int | None = None,
    seed: int = 0,
) -> LatentDistribution:
    """The posterior after some natural-gradient steps from the encoder's answer.

    A step costs each datum ``samples`` passes through the decoder and back. Before the first one
    p(x, z) is looked up at ``starts`` places, half of them draws of the prior: where one of them is
    far higher than the encoder's mean, the steps start there. They are decoded seldom, but each
    costs every datum one evaluation of the likelihood: next to nothing with ``bernoulli``, where
    all of them are one matrix product, and more than the steps with other likelihoods. Where the
    outcome is clearly worse than the encoder's q, that is kept. Draws come from the seed and are
    the same for every datum, so a datum's posterior does not depend on the others; only where the
    prior depends on a condition are the places drawn under the conditions of all of them.

    Args:
        model: the model; it is not changed, and no gradient reaches it.
        x: the data, (B, P) or (B, *data_shape).
        steps: natural-gradient steps.
        samples: z at which each step looks, in pairs, at most 2 D; the smaller of 2 D and 32 if not
            given.
        starts: places to start from; 8192 where D ≤ 3 and none above if not given.
        seed: of the draws.

    Returns:
        q(z|x), with batch shape (B,): a Gaussian with full covariance, or the encoder's own.

    Raises:
        ValueError: a number is out of range, or x does not fit the model.

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5)).eval()
        >>> q = model.refine(torch.rand(3, 30))
        >>> z, log_q = q.rsample_and_log_prob((7,))
        >>> z.shape, log_q.shape
        (torch.Size([7, 3, 2]), torch.Size([7, 3]))
    """
    D = model.latent_dim
    samples = min(2 * D, 32) if samples is None else samples
    if starts is None:
        starts = _STARTS if D <= _COVERED else 0
    for name, value, least in (("steps", steps, 1), ("samples", samples, 2), ("starts", starts, 0)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    x = model.flatten(x.clone() if x.is_inference() else x)
    pairs = min(samples // 2, D)
    generator = torch.Generator(x.device)
    at_once = model.draws_at_once(2 * pairs)
    with torch.no_grad():
        q = model.posterior(x)
        if not len(x):
            return q
        places = _look_around(model, x, starts, generator.manual_seed(seed)) if starts else None
    parts = []
    for start in range(0, len(x), at_once):
        some = slice(start, start + at_once)
        near = None if places is None else tuple(each[some] for each in places)
        generator.manual_seed(seed)  # the same draws for every part
        parts.append(_refine_part(model, x[some], near, steps, pairs, generator))
    loc, log_var, lower, better = (torch.cat(part) for part in zip(*parts, strict=True))
    return SelectedDistribution(better, FullGaussian(loc, log_var, lower), q)


def _refine_part(
    model: LatentVariableModel,
    x: Tensor,
    near: tuple[Tensor, ...] | None,
    steps: int,
    pairs: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The parameters of the Gaussian found for each datum, and where it is better than q."""

    def log_joint(z: Tensor) -> Tensor:
        return model.log_joint(x, z)

    with torch.no_grad():
        q = model.posterior(x)
        start = _gaussian_like(q, x, generator)
        if near is not None:
            z, height, log_var = near
            there = (height > log_joint(start.loc) + _HIGHER).unsqueeze(-1)
            start.loc = torch.where(there, z, start.loc)
            # A q that is wide because the encoder does not know would be drawn back to all it saw.
            start.log_var = torch.where(there, log_var, start.log_var)
    found = natural_gradient_steps(log_joint, start, steps, pairs, generator)
    with torch.no_grad():
        noise = _common_noise(q, _JUDGING_DRAWS, x, generator)
        try:
            lead = _elbo(log_joint, q, noise) - _elbo(log_joint, found, noise)
            better = ~(lead > _CLEARLY_BETTER)
        except NotImplementedError:  # q is not made from noise: there is nothing to compare at
            better = torch.ones_like(x[:, 0], dtype=torch.bool)
    return found.loc, found.log_var, found.lower, better


def natural_gradient_steps(
    log_density: Callable[[Tensor], Tensor],
    start: FullGaussian,
    steps: int,
    pairs: int,
    generator: torch.Generator,
) -> FullGaussian:
    """The Gaussian nearest to a density, in KL(q ‖ p), by natural-gradient steps.

    Args:
        log_density: z (S, B, D) -> log p(z) of B densities up to constants, (S, B); it has a
            gradient.
        start: B Gaussians on R^D.
        steps: their number; the rate ρ falls from 1 to 0.2 along them.
        pairs: pairs of points at which each step looks, at most D.
        generator: of the points' directions.

    Examples:
        >>> import torch
        >>> from flowvae.distributions import FullGaussian
        >>> target = FullGaussian(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 2, 2))
        >>> start = FullGaussian(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2, 2))
        >>> q = natural_gradient_steps(target.log_prob, start, 3, 2, torch.Generator())
        >>> torch.allclose(q.covariance_matrix, target.covariance_matrix, atol=1e-5)
        True
    """
    m, L = start.loc, start.scale_tril
    D = m.shape[-1]
    for step in range(steps):
        rate = max(_FIRST_RATE * (1 - step / steps), _LAST_RATE)
        noise = _pairs(D, pairs, m, generator)
        z = m + torch.einsum("bij,sj->sbi", L, noise)
        gradient = torch.einsum("bij,sbi->sbj", L, _gradient(log_density, z))
        gradient = gradient.nan_to_num(0.0).clamp(-_STEEPEST, _STEEPEST)
        curvature, axes = torch.linalg.eigh(_curvature(gradient, noise))
        precision = (1 - rate) + rate * curvature.clamp(*_CURVATURE)
        inverse = (axes / precision.unsqueeze(-2)) @ axes.mT
        move = rate * matvec(inverse, gradient.mean(0))
        length = torch.linalg.vector_norm(move, dim=-1, keepdim=True)
        longest = _LONGEST_STEP * math.sqrt(pairs)
        m = m + matvec(L, move * (longest / length.clamp(min=longest)))
        L = _triangular(L @ ((axes / precision.sqrt().unsqueeze(-2)) @ axes.mT))
    return _full_gaussian(m, L)


def _pairs(D: int, pairs: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Points ±√D q_i, (2 pairs, D), with q_1, q_2 … the first of a random orthonormal basis."""
    turn = torch.randn(D, D, generator=generator, dtype=like.dtype, device=like.device)
    points = torch.linalg.qr(turn).Q.mT[:pairs] * math.sqrt(D)
    return torch.cat([points, -points])


def _gradient(log_density: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        return torch.autograd.grad(log_density(z).sum(), z)[0]


def _curvature(gradient: Tensor, noise: Tensor) -> Tensor:
    """Λ from the gradients (2s, B, D) at the points ±√D q_i, (2s, D), symmetric.

    Λ q_i ≈ -(g₊ - g₋)/(2 √D); what is not seen stays as it was, the identity (Powell's symmetric
    Broyden update). With s = D pairs it is the symmetric part of -E[g ξᵀ].
    """
    s, D = len(noise) // 2, noise.shape[-1]
    q = noise[:s] / math.sqrt(D)
    seen = (gradient[s:] - gradient[:s]) / (2 * math.sqrt(D))  # Λ q_i, (s, B, D)
    off = torch.einsum("sbi,sj->bij", seen - q[:, None], q)  # (Λ - I) Q Qᵀ
    twice = torch.einsum("si,sk,bkj->bij", q, q, off)  # Q Qᵀ (Λ - I) Q Qᵀ
    eye = torch.eye(D, dtype=noise.dtype, device=noise.device)
    return eye + off + off.mT - (twice + twice.mT) / 2


def _triangular(root: Tensor) -> Tensor:
    """L, lower triangular with a positive diagonal, where L Lᵀ is root rootᵀ."""
    upper = torch.linalg.qr(root.mT).R
    return (upper * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)).mT


def _full_gaussian(loc: Tensor, scale_tril: Tensor) -> FullGaussian:
    deviation = scale_tril.diagonal(dim1=-2, dim2=-1)
    return FullGaussian(loc, 2 * deviation.log(), scale_tril / deviation.unsqueeze(-1))


def _common_noise(
    q: LatentDistribution, draws: int, like: Tensor, generator: torch.Generator
) -> Tensor:
    """ε ~ N(0, I), (draws, B, D), the same for every datum."""
    B, D = *q.batch_shape, *q.event_shape
    noise = torch.randn(draws, 1, D, generator=generator, dtype=like.dtype, device=like.device)
    return noise.expand(-1, B, -1)


def _gaussian_like(q: LatentDistribution, like: Tensor, generator: torch.Generator) -> FullGaussian:
    """With the mean and the deviations of some draws of q."""
    noise = _common_noise(q, _MOMENT_DRAWS, like, generator)
    try:
        z = q.at_noise(noise).z
    except NotImplementedError:
        z = q.rsample((_MOMENT_DRAWS,), generator)
    deviation = z.std(0).clamp(min=_LEAST_DEVIATION)
    lower = deviation.new_zeros(*deviation.shape, deviation.shape[-1])
    return FullGaussian(z.mean(0), 2 * deviation.log(), lower)


def _look_around(
    model: LatentVariableModel, x: Tensor, starts: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Of some places, for each datum that of the largest p(x, z), log p(x, z), and log σ² there.

    Half of them are draws of the prior, half fill their box evenly: unusual data lie far out.
    """
    candidates = model.prior_draws(x, starts, generator)
    low, high = candidates.amin(0), candidates.amax(0)
    candidates[::2] = low + (high - low) * torch.rand(
        candidates[::2].shape, generator=generator, dtype=low.dtype, device=low.device
    )
    best = x.new_full((len(x),), -math.inf)
    z = candidates[:1].repeat(len(x), 1)
    decoded_at_once = min(starts, model.draws_at_once())
    data_at_once = max(1, _PAIRS_AT_ONCE // decoded_at_once)
    for some in candidates.split(decoded_at_once):
        for first in range(0, len(x), data_at_once):
            rows = slice(first, first + data_at_once)
            height, index = model.log_joint_pairs(x[rows], some).max(1)
            higher = height > best[rows]
            z[rows] = torch.where(higher.unsqueeze(-1), some[index], z[rows])
            best[rows] = torch.where(higher, height, best[rows])
    narrow = (_NARROW * candidates.std(0, correction=0)).clamp(min=_LEAST_DEVIATION)
    return z, best, (2 * narrow.log()).expand_as(z)


def _elbo(log_joint: Callable[[Tensor], Tensor], q: LatentDistribution, noise: Tensor) -> Tensor:
    """The mean of log p(x, z) - log q(z|x) at given noise (S, B, D): (B,)."""
    z, log_base, ladj = q.at_noise(noise)
    return (log_joint(z) - log_base + ladj).mean(0)

"""What the latent variables carry: mutual information, marginal KL, active units.

With q(z) = 1/N Σ_n q(z|x_n), the aggregate posterior of N data,

    1/N Σ_n KL(q(z|x_n) ‖ p(z))  =  I_q(x; z)  +  KL(q(z) ‖ p(z))
      the ELBO's KL                 information    marginal KL

I_q is how much z tells which of the N data it came from, at most log N; the marginal KL is the
prior's fault and can be removed by a better one.

Sources: Hoffman & Johnson, "ELBO surgery", NIPS 2016 workshop; "Importance Weighted
Autoencoders", arXiv 1509.00519, section 5.2 (active units).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.evaluation.estimates import Estimate, ignore
from flowvae.vae import VAE

__all__ = ["Information", "active_units", "mutual_information"]

_PAIRS_AT_ONCE = 2**21
_DATA_AT_ONCE = 1000


@dataclass(frozen=True)
class Information:
    """The KL to the prior and its two parts, in nats, over N data, with Monte Carlo errors.

    The data are taken as given: the errors are those of the draws of z alone.
    """

    kl: Estimate
    mutual_information: Estimate
    marginal_kl: Estimate
    count: int

    @property
    def largest(self) -> float:
        """Log N: the mutual information cannot be larger; near it, more data are needed."""
        return math.log(self.count)


@torch.no_grad()
def mutual_information(
    model: VAE,
    x: Float[Tensor, "N P"],
    *,
    samples: int = 1,
    generator: torch.Generator | None = None,
    advance: Callable[[int], None] = ignore,
) -> Information:
    """Split the mean KL to the prior over N data. Needs N² S densities.

    Args:
        model: the model, in evaluation mode; its posterior must have ``log_prob`` at given z.
        x: the data, (N, P).
        samples: S draws of z per datum.
        generator: of the draws.
        advance: called with the number of data done since the last call.

    Raises:
        NotImplementedError: the posterior has no density at given z.

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5)).eval()
        >>> found = mutual_information(model, torch.rand(50, 30))
        >>> found.mutual_information.mean <= found.largest
        True
    """
    x = model.flatten(x)
    q, N = model.posterior(x), len(x)
    z, log_q = q.rsample_and_log_prob((samples,), generator)
    flat = z.flatten(0, 1)
    log_prior = model.prior_at(x).log_prob(z).flatten()
    aggregate = []
    for part in flat.split(max(1, _PAIRS_AT_ONCE // (N * (z.shape[-1] ** 2 + 16)))):
        aggregate.append(q.log_prob(part[:, None]).logsumexp(1) - math.log(N))
        advance(len(part) // samples)
    log_aggregate = torch.cat(aggregate)
    log_q = log_q.flatten()
    return Information(
        kl=_mean(log_q - log_prior, samples),
        mutual_information=_mean(log_q - log_aggregate, samples),
        marginal_kl=_mean(log_aggregate - log_prior, samples),
        count=N,
    )


def _mean(values: Tensor, samples: int) -> Estimate:
    """Mean over S draws of N data; with S > 1 the error is that of the draws alone."""
    table = values.cpu().double().reshape(samples, -1)
    N = table.shape[1]
    variance = table.var(0).mean() if samples > 1 else table.var()
    return Estimate(table.mean().item(), math.sqrt(variance.item() / (samples * N)))


@torch.no_grad()
def active_units(
    model: VAE,
    x: Float[Tensor, "N P"],
    *,
    samples: int = 32,
    generator: torch.Generator | None = None,
    threshold: float = 0.01,
) -> tuple[int, Float[Tensor, " D"]]:
    """How many latent dimensions move with x:  Var_x(E_q[z_d|x]) > 0.01.

    The variance over data of a mean of S draws is too large by the draws' own variance over S,
    which is taken off: the estimate is unbiased, and can be a little below zero.

    Args:
        model: the model, in evaluation mode.
        x: the data, (N, P), N ≥ 2.
        samples: S ≥ 2 draws of z per datum.
        generator: of the draws.
        threshold: what counts as active.

    Returns:
        The number, and the variance of every dimension, (D,), float64, on the CPU.

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5)).eval()
        >>> count, variance = active_units(model, torch.rand(50, 30))
        >>> 0 <= count <= 2, variance.shape
        (True, torch.Size([2]))
    """
    if samples < 2 or len(x) < 2:
        raise ValueError(f"samples, x: expected at least 2 of each, got {samples} and {len(x)}")
    means, within = [], []
    for part in model.flatten(x).split(_DATA_AT_ONCE):
        z = model.posterior(part).rsample((samples,), generator).cpu().double()
        means.append(z.mean(0))
        within.append(z.var(0))
    variance = torch.cat(means).var(0) - torch.cat(within).mean(0) / samples
    return int((variance > threshold).sum()), variance

"""The inference gap, from the ELBO to log p(x), and its two parts.

    log p(x) - L[q]  =  (log p(x) - L[q*])  +  (L[q*] - L[q])
      inference gap      approximation gap     amortization gap

q(z|x) is what the encoder gives, q* the best of the same family for this one datum. The first
part is due to the family, the second to the encoder.

Source: "Inference Suboptimality in Variational Autoencoders", arXiv 1801.03558.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvae.distributions import FullGaussian, LatentDistribution
from flowvae.evaluation.estimates import ignore
from flowvae.posteriors.base import LinearHeads
from flowvae.vae import VAE

__all__ = ["fit_posterior", "inference_gaps"]

_WIDENED = 1.5  # a proposal with lighter tails than p(z|x) has weights without bound


@torch.inference_mode(False)  # gradients are needed in here
def fit_posterior(
    model: VAE,
    x: Float[Tensor, "B P"],
    *,
    steps: int = 500,
    samples: int = 16,
    learning_rate: float = 0.02,
    generator: torch.Generator | None = None,
) -> LatentDistribution:
    """The best q of the model's family for each datum, found from the encoder's q by Adam.

    What is free are the features that the posterior head gets, and, where it has a linear layer
    ``heads`` that writes all parameters, something added to that layer's output. Path gradients
    where q has a density at given z. A mode of p(z|x) that lies far from the encoder's q is not
    found.

    Args:
        model: the model; it is not changed.
        x: the data, (B, P).
        steps: of Adam, its rate falling to zero along a cosine.
        samples: draws of z per datum and step.
        learning_rate: at the first step.
        generator: of the draws.
    """
    if steps < 1 or samples < 1:
        raise ValueError(f"steps, samples: expected at least 1, got {steps} and {samples}")
    x = model.flatten(x.clone() if x.is_inference() else x)
    optimum = _Free(model, x)
    optimizer = torch.optim.Adam(optimum.parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        q = optimum.posterior()
        sample = q.rsample_terms((samples,), generator)
        try:
            log_q = q.detached().log_prob(sample.z)
        except NotImplementedError:
            log_q = sample.log_base - sample.ladj
        log_joint = model.log_joint(x, sample.z)
        # A sum over data: each datum's step is its own.
        loss = (log_q - log_joint).mean(0).sum()
        gradients = torch.autograd.grad(loss, optimum.parameters)
        for parameter, gradient in zip(optimum.parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return optimum.posterior()


class _Free:
    """What is fitted for each datum: the features, and an offset of what ``heads`` writes."""

    def __init__(self, model: VAE, x: Tensor) -> None:
        self.head = model.posterior_head
        with torch.no_grad():
            features = model.encoder(x).clone()
        self.parameters = [features.requires_grad_()]
        heads = self.head.heads if isinstance(self.head, LinearHeads) else None
        self.linear = heads if isinstance(heads, nn.Linear) else None  # one may have another
        if self.linear is not None:
            offset = features.new_zeros(len(x), self.linear.out_features, requires_grad=True)
            self.parameters.append(offset)

    def posterior(self) -> LatentDistribution:
        if self.linear is None:
            return self.head(self.parameters[0])
        # For this call alone: a prior may be made of the same head, on inputs of its own.
        hook = self.linear.register_forward_hook(lambda *call: call[-1] + self.parameters[1])
        try:
            return self.head(self.parameters[0])
        finally:
            hook.remove()


def inference_gaps(
    model: VAE,
    x: Float[Tensor, "B P"],
    *,
    log_prob: Float[Tensor, " B"] | None = None,
    samples: int = 2000,
    steps: int = 500,
    generator: torch.Generator | None = None,
    advance: Callable[[int], None] = ignore,
) -> dict[str, Tensor]:
    """Split the gap of each datum, by :func:`fit_posterior`.

    Args:
        model: the model, in evaluation mode.
        x: the data, (B, P).
        log_prob: log p(x), if it is known better than by sampling; else it is estimated by draws
            of q, of q* and of a Gaussian like p(z|x) together.
        samples: draws of z for each ELBO, and of each proposal for log p(x).
        steps: of the fit.
        generator: of the draws.
        advance: called with the number of data done since the last call.

    Returns:
        name -> (B,), float64, on the CPU, in nats: ``elbo``, ``fitted_elbo``, ``log_prob``,
        ``approximation_gap``, ``amortization_gap``, and the Monte Carlo errors ``elbo_error``,
        ``fitted_elbo_error``, ``log_prob_error``. Where the fit did not improve on the encoder's q,
        q* is q.

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5)).eval()
        >>> gaps = inference_gaps(model, torch.rand(3, 30), steps=20, samples=100)
        >>> whole = gaps["approximation_gap"] + gaps["amortization_gap"]
        >>> torch.allclose(whole, gaps["log_prob"] - gaps["elbo"])
        True
    """
    x = model.flatten(x)
    at_once = model.draws_at_once(16)
    parts = []
    for part in x.split(at_once):
        fitted = fit_posterior(model, part, steps=steps, generator=generator)
        parts.append(_compare(model, part, fitted, samples, generator))
        advance(len(part))
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if log_prob is not None:
        found["log_prob"] = log_prob.cpu().double()
        found["log_prob_error"] = torch.zeros_like(found["log_prob"])
    found["approximation_gap"] = found["log_prob"] - found["fitted_elbo"]
    found["amortization_gap"] = found["fitted_elbo"] - found["elbo"]
    return found


@torch.no_grad()
def _compare(
    model: VAE,
    x: Tensor,
    fitted: LatentDistribution,
    samples: int,
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    q = model.posterior(x)
    # Which of the two is better is decided by other draws than those it is then judged by.
    better = (_weights(model, x, fitted, samples, generator).mean(0)) > (
        _weights(model, x, q, samples, generator).mean(0)
    )
    by_q = _weights(model, x, q, samples, generator)
    by_fitted = torch.where(better, _weights(model, x, fitted, samples, generator), by_q)
    log_prob, error = _log_prob(model, x, q, fitted, samples, generator)
    return {
        "elbo": by_q.mean(0),
        "elbo_error": by_q.std(0) / math.sqrt(samples),
        "fitted_elbo": by_fitted.mean(0),
        "fitted_elbo_error": by_fitted.std(0) / math.sqrt(samples),
        "log_prob": log_prob,
        "log_prob_error": error,
    }


def _log_prob(
    model: VAE,
    x: Tensor,
    q: LatentDistribution,
    fitted: LatentDistribution,
    samples: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """log p(x) by S draws of each of three proposals, and the Monte Carlo error.

    The proposals are q, q* and a Gaussian with the mean and the full covariance of p(z|x), found
    by draws of the first two that are then thrown away. Draws are weighted as those of the mixture
    in equal parts. That is one unbiased estimate of p(x); the largest of several would be too
    large. Where q has no density at given z, by the draws of q* alone.

    Source: "Optimally Combining Sampling Techniques for Monte Carlo Rendering" (Veach and Guibas
    1995), the balance heuristic.
    """
    proposals = (q, fitted)
    try:
        pilot = [_draws(model, x, p, samples, generator, proposals) for p in proposals]
        z, weights = (torch.cat(each) for each in zip(*pilot, strict=True))
        proposals = (*proposals, _gaussian_of(z, weights))
        sets = [_weights(model, x, p, samples, generator, proposals) for p in proposals]
    except NotImplementedError:
        sets = [_weights(model, x, fitted, samples, generator)]
    weights = torch.cat(sets)
    log_prob = weights.logsumexp(0) - math.log(len(weights))
    variances = [(w - log_prob).exp().var(0) / samples for w in sets]
    return log_prob, torch.stack(variances).mean(0).div(len(sets)).sqrt()


def _gaussian_of(z: Tensor, log_weights: Tensor) -> FullGaussian:
    """The Gaussian with the weighted moments of z (N, B, D), widened.

    With few effective draws their covariance says little, and is drawn towards its diagonal.
    """
    D, points = z.shape[-1], z.cpu().double()
    share = log_weights.softmax(0).unsqueeze(-1)
    loc = (share * points).sum(0)
    off = points - loc
    covariance = torch.einsum("nbi,nbj->bij", share * off, off)
    ess = 1 / share.square().sum(0).unsqueeze(-1)
    trust = ess / (ess + D)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    least = 1e-6 * points.var(0) + torch.finfo(z.dtype).tiny
    covariance = trust * covariance + torch.diag_embed((1 - trust[..., 0]) * variance + least)
    root = torch.linalg.cholesky(_WIDENED * covariance)
    deviation = root.diagonal(dim1=-2, dim2=-1)
    lower = root / deviation.unsqueeze(-1)
    return FullGaussian(*(each.to(z) for each in (loc, 2 * deviation.log(), lower)))


def _weights(
    model: VAE,
    x: Tensor,
    q: LatentDistribution,
    samples: int,
    generator: torch.Generator | None,
    mixture: tuple[LatentDistribution, ...] = (),
) -> Tensor:
    """Log-weights (S, B) of draws of q, float64, on the CPU: log p(x, z) less log q, or less the
    log-density of a mixture in equal parts.
    """
    return _draws(model, x, q, samples, generator, mixture)[1]


def _draws(
    model: VAE,
    x: Tensor,
    q: LatentDistribution,
    samples: int,
    generator: torch.Generator | None,
    mixture: tuple[LatentDistribution, ...],
) -> tuple[Tensor, Tensor]:
    """z (S, B, D), and their log-weights as of :func:`_weights`."""
    at_once = model.draws_at_once(len(x))
    points, parts = [], []
    for start in range(0, samples, at_once):
        n = min(at_once, samples - start)
        sample = q.rsample_terms((n,), generator)
        log_weight = model.terms_at(x, sample).log_weight
        if mixture:
            log_q = sample.log_base - sample.ladj
            each = [log_q if p is q else p.log_prob(sample.z) for p in mixture]
            log_weight = log_weight + log_q - torch.stack(each).logsumexp(0) + math.log(len(each))
        points.append(sample.z)
        parts.append(log_weight.cpu().double())
    return torch.cat(points), torch.cat(parts)

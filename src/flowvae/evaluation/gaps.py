"""Where the missing nats are: the gap between the ELBO and log p(x), split in two.

    log p(x) - L[q]  =  (log p(x) - L[q*])  +  (L[q*] - L[q])
      inference gap      approximation gap     amortization gap

q(z|x) is what the encoder gives, q* the best of the same family for this one datum. The first
part is the family's fault, the second the encoder's.

Source: "Inference Suboptimality in Variational Autoencoders", arXiv 1801.03558.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvae.distributions import LatentDistribution
from flowvae.evaluation.estimates import ignore
from flowvae.vae import VAE

__all__ = ["fit_posterior", "inference_gaps"]

_DECODED_AT_ONCE = {"cpu": 2**21}
_DECODED_AT_ONCE_ELSEWHERE = 2**26


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
    x = model.flatten(x)
    with torch.no_grad():
        features = model.encoder(x).clone()
    features.requires_grad_()
    free = [features]
    hook = None
    linear = getattr(model.posterior_head, "heads", None)
    if isinstance(linear, nn.Linear):
        free.append(features.new_zeros(len(x), linear.out_features, requires_grad=True))
        hook = linear.register_forward_hook(lambda *call: call[-1] + free[1])
    try:
        _fit(model, x, free, steps, samples, learning_rate, generator)
        with torch.no_grad():
            return model.posterior_head(features.detach())
    finally:
        if hook is not None:
            hook.remove()


def _fit(
    model: VAE,
    x: Tensor,
    free: list[Tensor],
    steps: int,
    samples: int,
    learning_rate: float,
    generator: torch.Generator | None,
) -> None:
    optimizer = torch.optim.Adam(free, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        q = model.posterior_head(free[0])
        sample = q.rsample_terms((samples,), generator)
        try:
            log_q = q.detached().log_prob(sample.z)
        except NotImplementedError:
            log_q = sample.log_base - sample.ladj
        log_joint = model.decode(sample.z).log_prob(x) + model.prior().log_prob(sample.z)
        # A sum over data: each datum's step is its own.
        gradients = torch.autograd.grad((log_q - log_joint).mean(0).sum(), free)
        for parameter, gradient in zip(free, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()


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
        log_prob: log p(x), if it is known better than by sampling; else the larger of two
            importance-weighted bounds, with q and with q* as proposals.
        samples: draws of z for each ELBO and bound.
        steps: of the fit.
        generator: of the draws.
        advance: called with the number of data done since the last call.

    Returns:
        name -> (B,), float64, on the CPU, in nats: ``elbo``, ``fitted_elbo``, ``log_prob``,
        ``approximation_gap``, ``amortization_gap``, and the Monte Carlo errors ``elbo_error``,
        ``fitted_elbo_error``. Where the fit did not better the encoder's q, q* is q.

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5)).eval()
        >>> gaps = inference_gaps(model, torch.rand(3, 30), steps=20, samples=100)
        >>> whole = gaps["approximation_gap"] + gaps["amortization_gap"]
        >>> torch.allclose(whole, gaps["log_prob"] - gaps["elbo"])
        True
    """
    x = model.flatten(x)
    elements = _DECODED_AT_ONCE.get(x.device.type, _DECODED_AT_ONCE_ELSEWHERE)
    at_once = max(1, elements // (16 * x.shape[-1]))
    parts = []
    for part in x.split(at_once):
        fitted = fit_posterior(model, part, steps=steps, generator=generator)
        parts.append(_compare(model, part, fitted, samples, generator))
        advance(len(part))
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    bound = found.pop("bound")
    found["log_prob"] = bound if log_prob is None else log_prob.cpu().double()
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
    bounds = [w.logsumexp(0) - math.log(samples) for w in (by_q, by_fitted)]
    return {
        "elbo": by_q.mean(0),
        "elbo_error": by_q.std(0) / math.sqrt(samples),
        "fitted_elbo": by_fitted.mean(0),
        "fitted_elbo_error": by_fitted.std(0) / math.sqrt(samples),
        "bound": torch.maximum(*bounds),
    }


def _weights(
    model: VAE,
    x: Tensor,
    q: LatentDistribution,
    samples: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Log-weights (S, B), float64, on the CPU."""
    elements = _DECODED_AT_ONCE.get(x.device.type, _DECODED_AT_ONCE_ELSEWHERE)
    at_once = max(1, elements // x.numel())
    parts = []
    for start in range(0, samples, at_once):
        n = min(at_once, samples - start)
        terms = model.terms_at(x, q.rsample_terms((n,), generator))
        parts.append(terms.log_weight.cpu().double())
    return torch.cat(parts)

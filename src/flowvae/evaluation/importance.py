"""log p(x) by importance sampling, with diagnostics of its reliability.

With S draws z_s ~ q(z|x) and weights w_s = p(x, z_s) / q(z_s|x), in nats per datum:

    L_S = log 1/S Σ_s w_s              the bound; E L_S ≤ log p(x), rising to it as S → ∞
    ESS = (Σ w_s)² / Σ w_s²            how many equal weights would be as good
    se  = √((S / ESS - 1) / (S - 1))   of L_S: the relative standard error of the mean weight
    k̂                                  the shape of the weights' upper tail (Pareto)

Below k̂ = min(1 - 1/log₁₀ S, 0.7) the standard error is reliable. Above it the tail is so
heavy that more samples hardly help, and L_S is likely to be too low.

Sources: "Importance Weighted Autoencoders", arXiv 1509.00519; "Pareto Smoothed Importance
Sampling", arXiv 1507.02646; Zhang & Stephens, "A New and Efficient Estimation Method for the
Generalized Pareto Distribution", Technometrics 51 (2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.errors import UserError
from flowvae.evaluation.estimates import ignore
from flowvae.vae import VAE

__all__ = ["importance_sampling", "pareto_k", "reliable_pareto_k"]

# Beside a batch's weights in float32: their sorted copy and what float64 sums need.
_BYTES_PER_WEIGHT = 32
# Largest weights that differ by less than this are all the same: what is left is rounding.
_CONSTANT = 1e-4
# Samples at once for each datum of a batch: the flow's kernel works on 64 samples together.
_SAMPLES_AT_ONCE = 64


@torch.inference_mode()
def importance_sampling(
    model: VAE,
    x: Float[Tensor, "N P"],
    samples: int,
    generator: torch.Generator | None = None,
    *,
    memory: int = 2**29,
    advance: Callable[[int], None] = ignore,
) -> dict[str, Tensor]:
    """Every estimate that S draws of z give, for every datum.

    The encoder runs once per datum and its parameters serve all S draws. Decoder outputs pass
    through in chunks; the log-weights of a few data at a time are kept whole.

    Args:
        model: the model, in evaluation mode.
        x: the data, (N, P), on the model's device.
        samples: S ≥ 1.
        generator: of the draws.
        memory: bytes for log-weights; 2²⁹ suffices for one datum at S = 16 million.
        advance: called with the number of data done since the last call.

    Returns:
        name -> (N,), float64, on the CPU: the means over S of the ELBO's terms (``elbo``,
        ``log_likelihood``, ``kl``, ``log_prior``, ``log_base``, ``ladj``), ``elbo_error`` (of the
        ELBO, Monte Carlo), ``iw_bound`` (L_S), ``iw_error`` (its standard error), ``ess``,
        ``pareto_k``.

    Raises:
        ValueError: S < 1.
        UserError: memory is too small for the weights of one datum.

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5))
        >>> found = importance_sampling(model, torch.rand(3, 30), samples=500)
        >>> bool((found["iw_bound"] >= found["elbo"]).all()), found["ess"].shape
        (True, torch.Size([3]))
    """
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples}")
    x = model.flatten(x)
    at_most = memory // (_BYTES_PER_WEIGHT * samples)
    if at_most < 1:
        raise UserError(
            f"samples: expected at most {memory // _BYTES_PER_WEIGHT}, whose log-weights of one "
            f"datum take {memory} bytes, got {samples}"
        )
    batch = min(at_most, batch_size(model))
    parts = []
    for part in x.split(batch):
        parts.append(_one_batch(model, part, samples, generator))
        advance(len(part))
    return {name: torch.cat([found[name] for found in parts]) for name in parts[0]}


def batch_size(model: VAE) -> int:
    """Data at once, so that a chunk has enough samples of each for the flow's kernel."""
    return model.draws_at_once(_SAMPLES_AT_ONCE)


def _one_batch(
    model: VAE, x: Tensor, samples: int, generator: torch.Generator | None
) -> dict[str, Tensor]:
    log_weights = x.new_empty(samples, len(x))
    sums: dict[str, Tensor] = {}
    done = 0
    for terms in model.term_chunks(x, samples, generator):
        n = len(terms.ladj)
        log_weights[done : done + n] = terms.log_weight
        done += n
        for name in ("log_likelihood", "log_prior", "log_base", "ladj"):
            total = getattr(terms, name).sum(0)
            sums[name] = sums[name] + total if name in sums else total
    means = {name: (total / samples).cpu().double() for name, total in sums.items()}
    kl = means["log_base"] - means["ladj"] - means["log_prior"]
    found = {"elbo": means["log_likelihood"] - kl, "kl": kl, **means}
    return {**found, **of_weights(log_weights.cpu().double())}


def of_weights(log_weights: Tensor) -> dict[str, Tensor]:
    """Bound, errors, effective sample size and tail of weights (S, B), float64."""
    S = len(log_weights)
    bound = log_weights.logsumexp(0) - math.log(S)
    relative = (log_weights - bound).exp()  # mean 1
    ess = S / relative.square().mean(0)
    many = max(S - 1, 1)
    infinite = torch.full_like(bound, math.inf)
    return {
        "elbo_error": log_weights.std(0) / math.sqrt(S) if S > 1 else infinite,
        "iw_bound": bound,
        "iw_error": ((S / ess - 1).clamp(min=0) / many).sqrt() if S > 1 else infinite,
        "ess": ess,
        "pareto_k": pareto_k(log_weights),
    }


def reliable_pareto_k(samples: int) -> float:
    """The k̂ up to which S weights are reliable: min(1 - 1/log₁₀ S, 0.7) (arXiv 1507.02646).

    Examples:
        >>> reliable_pareto_k(100), reliable_pareto_k(5000)
        (0.5, 0.7)
    """
    return 0.7 if samples <= 1 else min(1 - 1 / math.log10(samples), 0.7)


def share_above(k: Tensor, samples: int) -> float | None:
    """The share of data whose k̂ is too large to be reliable; none where S is too small for k̂."""
    if k.isnan().all():
        return None
    return (k > reliable_pareto_k(samples)).double().mean().item()


def pareto_k(log_weights: Float[Tensor, "S B"]) -> Float[Tensor, " B"]:
    """Shape k̂ of a generalized Pareto distribution fitted to each column's largest weights.

    The tail is the M = min(S/5, 3√S) largest of S weights (arXiv 1507.02646); the fit is Zhang &
    Stephens's, with the same weak prior that draws k̂ to ½ as ten more observations would.
    Weights have 1/k finite moments. NaN where S < 25, too few for a tail; -∞ where the largest
    weights are the same to four digits.

    Examples:
        >>> import torch
        >>> u = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
        >>> abs(pareto_k(-0.5 * u.log().double()).item() - 0.5) < 0.1   # P(w > t) = t^-2
        True
    """
    S = len(log_weights)
    M = min(S // 5, math.ceil(3 * math.sqrt(S)))
    if M < 5:
        return torch.full_like(log_weights[0], math.nan)
    largest = log_weights.topk(M + 1, dim=0).values
    largest = (largest - largest[0]).exp()
    excess = (largest[:-1] - largest[-1]).flip(0)  # (M, B), ascending
    constant = excess[-1] < _CONSTANT
    return torch.where(constant, -math.inf, _fit(torch.where(constant, 1.0, excess)))


def _fit(x: Tensor) -> Tensor:
    """Zhang & Stephens: a posterior mean of θ = -k/σ over a grid, by profile likelihood."""
    n = len(x)
    m = 30 + int(math.sqrt(n))
    j = torch.arange(1, m + 1, dtype=x.dtype)[:, None]
    tiny = torch.finfo(x.dtype).tiny
    quartile = x[int(n / 4 + 0.5) - 1].clamp(min=tiny)
    theta = 1 / x[-1] + (1 - (m / (j - 0.5)).sqrt()) / (3 * quartile)  # (m, B)
    k = torch.stack([torch.log1p(-t * x).mean(0) for t in theta])
    log_profile = n * ((-theta / k).log() - k - 1)
    weight = log_profile.nan_to_num(-math.inf).softmax(0)
    best = (theta * weight).sum(0)
    k = torch.log1p(-best * x).mean(0)
    return (n * k + 10 * 0.5) / (n + 10)

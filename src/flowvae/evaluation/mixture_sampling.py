"""Importance sampling that does not depend on q alone.

q(z|x) may miss a mode of p(z|x), which does not show in the weights. Here a quarter of the draws
come from elsewhere: of M draws of the prior, shared by all data, C are chosen with probability in
proportion to p(x|z), and a Gaussian is put around each. All draws are weighted by the mixture they
come from,

    r(z) = (1 - α) q(z|x) + α 1/C Σ_c N(z; z_c, diag h²),     w_s = p(x, z_s) / r(z_s),

(the balance heuristic), which is unbiased for p(x) whatever the Gaussians are, and never worse
than q by more than a factor 1/(1 - α) in the number of draws. What it finds is what M draws of the
prior find: much where D is small, little where it is large.

Sources: Veach & Guibas, "Optimally combining sampling techniques for Monte Carlo rendering",
SIGGRAPH 1995; Owen & Zhou, "Safe and effective importance sampling", JASA 95 (2000).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.distributions import DiagonalGaussian, LatentDistribution
from flowvae.evaluation.estimates import ignore
from flowvae.evaluation.grid import grid_log_joint
from flowvae.evaluation.importance import batch_size, of_weights
from flowvae.vae import VAE

__all__ = ["mixture_importance_sampling"]

_PRIOR_DRAWS = 4096  # M
_KERNELS = 16  # C
_SHARE = 0.25  # α
_NARROWEST = 0.05  # of a kernel, in the prior's deviations; q's own deviation if that is larger


@torch.inference_mode()
def mixture_importance_sampling(
    model: VAE,
    x: Float[Tensor, "N P"],
    samples: int,
    generator: torch.Generator | None = None,
    *,
    advance: Callable[[int], None] = ignore,
) -> dict[str, Tensor]:
    """Log p(x) by S draws from q and from around the prior's best draws.

    Args:
        model: the model, in evaluation mode; its posterior must have ``log_prob`` at given z.
        x: the data, (N, P), on the model's device.
        samples: S ≥ 4.
        generator: of the draws.
        advance: called with the number of data done since the last call.

    Returns:
        name -> (N,), float64, on the CPU: ``bound``, ``error``, ``ess``, ``pareto_k``, as in
        :func:`flowvae.evaluation.importance_sampling`.

    Raises:
        ValueError: S < 4.
        NotImplementedError: the posterior has no density at given z.

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5)).eval()
        >>> mixture_importance_sampling(model, torch.rand(3, 30), 400)["bound"].shape
        torch.Size([3])
    """
    if samples < 4:
        raise ValueError(f"samples: expected at least 4, got {samples}")
    x = model.flatten(x)
    anywhere = model.prior_draws(x, _PRIOR_DRAWS, generator)
    parts = []
    for part in x.split(batch_size(model)):
        log_prior = model.prior_at(part).log_prob(anywhere.unsqueeze(1))  # (M, B) or (M, 1)
        log_fit = grid_log_joint(model, part, anywhere) - log_prior.T  # (B, M)
        chosen = torch.multinomial(
            (log_fit - log_fit.amax(1, keepdim=True)).exp(), _KERNELS, True, generator=generator
        )
        q = model.posterior(part)
        narrowest = _NARROWEST * anywhere.std(0)
        deviation = torch.maximum(q.rsample((64,), generator).std(0), narrowest)
        kernels = _Kernels(anywhere[chosen].transpose(0, 1), deviation)
        log_weights = _weights(model, part, q, kernels, samples, generator)
        found = of_weights(log_weights)
        parts.append(
            {
                "bound": found["iw_bound"],
                "error": found["iw_error"],
                "ess": found["ess"],
                "pareto_k": found["pareto_k"],
            }
        )
        advance(len(part))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class _Kernels:
    """Equal parts of C Gaussians for each datum: centres (C, B, D), one deviation (B, D)."""

    def __init__(self, centres: Tensor, deviation: Tensor) -> None:
        self.centres = centres
        self.around = DiagonalGaussian(torch.zeros_like(deviation), 2 * deviation.log())

    def rsample(self, count: int, generator: torch.Generator | None) -> Tensor:
        C, B, D = self.centres.shape
        device = self.centres.device
        which = torch.randint(C, (count, B, 1), generator=generator, device=device)
        centre = self.centres.gather(0, which.expand(count, B, D))
        return centre + self.around.rsample((count,), generator)

    def log_prob(self, z: Tensor) -> Tensor:
        each = [self.around.log_prob(z - centre) for centre in self.centres]
        return torch.stack(each).logsumexp(0) - math.log(len(each))


def _weights(
    model: VAE,
    x: Tensor,
    q: LatentDistribution,
    kernels: _Kernels,
    samples: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Log-weights (S, B), float64, on the CPU: those of the kernels' draws last."""
    elsewhere = round(_SHARE * samples)
    share = elsewhere / samples
    at_once = model.draws_at_once(len(x))
    parts = []
    for source, count in ((q, samples - elsewhere), (kernels, elsewhere)):
        for start in range(0, count, at_once):
            n = min(at_once, count - start)
            if isinstance(source, _Kernels):
                z = source.rsample(n, generator)
                log_q = q.log_prob(z)
            else:
                z, log_q = source.rsample_and_log_prob((n,), generator)
            log_r = torch.logaddexp(
                log_q + math.log(1 - share), kernels.log_prob(z) + math.log(share)
            )
            parts.append((model.log_joint(x, z) - log_r).cpu().double())
    return torch.cat(parts)

"""The Gaussian likelihood."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import AfterValidator
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from flowvae.errors import shown
from flowvae.likelihoods.base import REAL, Likelihood, ValueDistribution, uniform

__all__ = ["NODES", "Gaussian", "GaussianValues", "floored"]

# σ of at least e^-5 = 0.0067: without a floor the density of a value that is the same in all data
# grows without bound.
_LEAST_LOG_SIGMA = -5.0


def _sigma(value: str | float) -> str | float:
    if value in ("learned", "per_pixel"):
        return value
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"expected learned, per_pixel or a number > 0, got {shown(value)}")
    return number


class Gaussian(Likelihood):
    """Independent N(m_i, σ_i²) for each value.

    Args:
        sigma: a number; ``"learned"``, one σ learned for all values; or ``"per_pixel"``, one
            written by the decoder for each value of each datum. Learned ones are at least e^-5.

    Examples:
        >>> import torch
        >>> p = Gaussian(sigma=1.0)(torch.zeros(3, 784))
        >>> p.log_prob(torch.zeros(3, 784))[0].item() / 784   # -½ log 2π per value
        -0.918938...
    """

    support = REAL

    def __init__(self, sigma: Annotated[str | float, AfterValidator(_sigma)] = "learned") -> None:
        super().__init__()
        sigma = _sigma(sigma)
        self.outputs_per_dim = 2 if sigma == "per_pixel" else 1
        self._log_sigma = 0.0 if isinstance(sigma, str) else math.log(sigma)
        self.raw = nn.Parameter(torch.zeros(())) if sigma == "learned" else None

    def outputs_at_mean(self, mean: Float[Tensor, " P"]) -> Tensor:
        return mean

    def forward(self, outputs: Float[Tensor, "*batch N"]) -> ValueDistribution:
        if self.outputs_per_dim == 2:
            loc, raw = outputs.chunk(2, -1)
            return GaussianValues(loc, floored(raw))
        log_sigma = outputs.new_tensor(self._log_sigma) if self.raw is None else floored(self.raw)
        return GaussianValues(outputs, log_sigma)


def floored(raw: Tensor) -> Tensor:
    """Log σ: raw itself, but for where that nears the floor."""
    return _LEAST_LOG_SIGMA + softplus(raw - _LEAST_LOG_SIGMA)


class GaussianValues(ValueDistribution):
    """N(loc, σ²), (..., P) each."""

    def __init__(self, loc: Tensor, log_sigma: Tensor) -> None:
        self.loc, self.log_sigma = loc, log_sigma
        super().__init__(loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.loc, "log_sigma": self.log_sigma.expand_as(self.loc)}

    def log_prob_values(self, value: Tensor) -> Tensor:
        eps = (value - self.loc) * (-self.log_sigma).exp()
        return -0.5 * (eps.square() + math.log(2 * math.pi)) - self.log_sigma

    def tilted(self, offset: Tensor, slope: Tensor) -> tuple[Tensor, ValueDistribution]:
        """By the trapezoidal rule in (x - loc) / σ, which converges geometrically."""
        found = _TiltedGaussian(self, offset, slope)
        return found.log_normaliser, found

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        like = self.loc
        eps = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        return self.loc + self.log_sigma.exp() * eps


# Beyond, N(0, 1) has 1e-10 of its mass. The rule's error is about e^{-2π²/(h |b| σ)} beside the
# density where the weight rises. Where that is within six deviations, the logarithm is good to 1e-3
# while |b| σ is at most 5; nearer to a step, at 10, it may be off by 0.3.
_FURTHEST, NODES = 6.5, 41


class _TiltedGaussian(ValueDistribution):
    """Density N(x; loc, σ²) σ(a + b x) / E[σ(a + b x)] of each value."""

    def __init__(self, p: GaussianValues, offset: Tensor, slope: Tensor) -> None:
        self.loc, self.sigma = p.loc, p.log_sigma.exp()
        ends, like = (-_FURTHEST, _FURTHEST), {"dtype": p.loc.dtype, "device": p.loc.device}
        self.nodes = torch.linspace(*ends, NODES, **like)
        base = (-0.5 * self.nodes.square()).log_softmax(0)
        logits = (offset + slope * self.loc)[..., None]
        logits = logits + (slope * self.sigma)[..., None] * self.nodes
        self.log_weights = base + logsigmoid(logits)  # (..., P, nodes)
        self.log_normaliser = self.log_weights.logsumexp(-1)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.sigma * (self.log_weights.softmax(-1) @ self.nodes)

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """By the inverse of the distribution function, its density constant around each node."""
        ends = self.log_weights.softmax(-1).cumsum(-1)
        ends = (ends / ends[..., -1:]).expand(*shape, NODES).contiguous()
        u = uniform(shape, self.loc, generator)[..., None]
        cell = torch.searchsorted(ends, u).clamp(max=NODES - 1)
        before = torch.where(cell > 0, ends.gather(-1, (cell - 1).clamp(min=0)), 0.0)
        share = (u - before) / (ends.gather(-1, cell) - before)
        step = self.nodes[1] - self.nodes[0]
        return self.loc + self.sigma * (self.nodes[cell] + (share - 0.5) * step).squeeze(-1)

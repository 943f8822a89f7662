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
        log_sigma = outputs.new_full((), self._log_sigma) if self.raw is None else floored(self.raw)
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
        """By a trapezoidal rule whose nodes lie densest where the curve σ(a + b x) rises."""
        found = _TiltedGaussian(self, offset, slope)
        return found.log_normaliser, found

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        like = self.loc
        eps = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        return self.loc + self.log_sigma.exp() * eps


_FURTHEST, NODES = 6.5, 51  # beyond, N(0, 1) has 1e-10 of its mass


class _TiltedGaussian(ValueDistribution):
    """Density N(x; loc, σ²) σ(a + b x) / E[σ(a + b x)] of each value.

    With ε = (x - loc)/σ, slope s = b σ and middle ε* = -(a + b loc)/s of the curve, integrals are
    by the trapezoidal rule in t, where ε = ε* + sinh(t)/√(s² + 1/9): nodes lie close together where
    the curve rises and further apart elsewhere. The mass lies between 0 and that tilt of the
    Gaussian which is the nearest to ε*, give or take some deviations, and so do the nodes. The
    logarithm is good to 1e-4 nats while |s| is at most 20, and to 5e-3 at 200.
    """

    def __init__(self, p: GaussianValues, offset: Tensor, slope: Tensor) -> None:
        self.loc, self.sigma = p.loc, p.log_sigma.exp()
        at_loc, slope = offset + slope * self.loc, slope * self.sigma
        with torch.no_grad():  # where the nodes are is no part of the integral's gradient
            self._place(*torch.broadcast_tensors(at_loc.detach(), slope.detach()))
        logits = at_loc[..., None] + slope[..., None] * self.nodes
        self.log_weights = self._log_measure + logsigmoid(logits)  # (..., P, nodes)
        self.log_normaliser = self.log_weights.logsumexp(-1).clamp(max=0)
        super().__init__(self.loc.shape)

    def _place(self, at_loc: Tensor, slope: Tensor) -> None:
        """Choose the nodes, (..., P, nodes)."""
        middle = -at_loc / torch.where(slope.abs() < 1e-6, 1e-6, slope)
        tilt = middle.clamp(slope.clamp(max=0), slope.clamp(min=0))
        low, high = tilt.clamp(max=0) - _FURTHEST, tilt.clamp(min=0) + _FURTHEST
        self._middle = middle.clamp(low, high)
        self._width = 1 / torch.hypot(slope, slope.new_full((), 1 / 3))
        first, last = (((end - self._middle) / self._width).asinh() for end in (low, high))
        self._step = (last - first) / (NODES - 1)
        number = torch.arange(NODES, dtype=at_loc.dtype, device=at_loc.device)
        self._t = first[..., None] + self._step[..., None] * number
        self.nodes = self._at(self._t)
        density = -0.5 * (self.nodes.square() + math.log(2 * math.pi))
        spacing = (self._width * self._step)[..., None] * self._t.cosh()
        self._log_measure = density + spacing.log()

    def _at(self, t: Tensor) -> Tensor:
        return self._middle[..., None] + self._width[..., None] * t.sinh()

    @property
    def mean(self) -> Tensor:
        return self.loc + self.sigma * (self.log_weights.softmax(-1) * self.nodes).sum(-1)

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """By the inverse of the distribution function, its density in t constant around a node."""
        ends = self.log_weights.softmax(-1).cumsum(-1)
        ends = (ends / ends[..., -1:]).expand(*shape, NODES).contiguous()
        u = uniform(shape, self.loc, generator)[..., None]
        cell = torch.searchsorted(ends, u).clamp(max=NODES - 1)
        before = torch.where(cell > 0, ends.gather(-1, (cell - 1).clamp(min=0)), 0.0)
        share = (u - before) / (ends.gather(-1, cell) - before)
        t = self._t.expand(*shape, NODES).gather(-1, cell) + (share - 0.5) * self._step[..., None]
        return self.loc + self.sigma * self._at(t).squeeze(-1)

"""Likelihoods of whole numbers: Poisson and negative binomial counts, categories."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from flowvae.config.options import MOST
from flowvae.likelihoods.base import CATEGORIES, COUNTS, Likelihood, ValueDistribution, uniform

__all__ = ["Categorical", "NegativeBinomial", "Poisson"]

_LINEAR_FROM = 10.0
_MOST_LOG_R = 40.0
# From here on Γ(x + r)/Γ(r) is taken from Stirling's series, whose next term is below 1e-11.
_STIRLING_FROM = 1000.0


class Poisson(Likelihood):
    """P(x) = λ^x e^{-λ} / x! for each value, from η: log λ = η up to η = 10, and from there on λ
    follows its tangent instead of overflowing.

    The encoder sees log(1 + x). Probabilities are computed in float64, where the device has it: at
    large counts they are small differences of large numbers.

    Examples:
        >>> import torch
        >>> Poisson()(torch.zeros(1, 1)).log_prob(torch.zeros(1, 1))
        tensor([-1.])
    """

    support = COUNTS
    measured = "probability"
    encoder_input = torch.log1p

    def outputs_at_mean(self, mean: Float[Tensor, " P"]) -> Tensor:
        return _log_of_mean(mean)

    def forward(self, eta: Float[Tensor, "*batch P"]) -> ValueDistribution:
        return _PoissonValues(eta)


class NegativeBinomial(Likelihood):
    """P(x) = Γ(x + r) / (Γ(r) x!) · (r/(r + μ))^r (μ/(r + μ))^x for each value: mean μ, variance
    μ + μ²/r.

    The decoder writes log μ (as :class:`Poisson` does log λ) and log r for each value; log r stays
    within ±40. With r far above μ the distribution is the Poisson's. The encoder sees log(1 + x).
    Probabilities are computed in float64, where the device has it.

    Examples:
        >>> import torch
        >>> NegativeBinomial()(torch.zeros(1, 2)).log_prob(torch.zeros(1, 1))   # log ½
        tensor([-0.6931])
    """

    support = COUNTS
    measured = "probability"
    outputs_per_dim = 2
    encoder_input = torch.log1p

    def outputs_at_mean(self, mean: Float[Tensor, " P"]) -> Tensor:
        return _log_of_mean(mean)

    def forward(self, outputs: Float[Tensor, "*batch N"]) -> ValueDistribution:
        eta, raw = outputs.chunk(2, -1)
        return _NegativeBinomialValues(eta, raw.clamp(-_MOST_LOG_R, _MOST_LOG_R))


class Categorical(Likelihood):
    """P(x = c) = softmax(l)_c for each value, c = 0 … C - 1, unordered.

    The mean it reports is that of the numbers c, which says something of ordered categories only.
    The encoder sees x / (C - 1).

    Args:
        num_categories: C ≥ 2; values are 0 … C - 1.

    Examples:
        >>> import torch
        >>> p = Categorical(num_categories=4)(torch.zeros(1, 4 * 3))
        >>> p.log_prob(torch.tensor([[0.0, 1.0, 3.0]])).item()   # 3 log ¼
        -4.1588...
    """

    support = CATEGORIES
    measured = "probability"

    def __init__(self, num_categories: Annotated[int, Field(ge=2, le=MOST)] = 10) -> None:
        super().__init__()
        if num_categories < 2:
            raise ValueError(f"num_categories: expected at least 2, got {num_categories}")
        self.outputs_per_dim = num_categories
        self.encoder_input = partial(torch.mul, other=1 / (num_categories - 1))

    def forward(self, outputs: Float[Tensor, "*batch N"]) -> ValueDistribution:
        return _CategoricalValues(outputs.unflatten(-1, (self.outputs_per_dim, -1)))


def _log_of_mean(mean: Tensor) -> Tensor:
    """η at which the mean is this."""
    log_mean = mean.clamp(min=1e-3).log()
    on_tangent = mean * math.exp(-_LINEAR_FROM) + _LINEAR_FROM - 1
    return torch.where(log_mean > _LINEAR_FROM, on_tangent, log_mean)


def _log_rate(eta: Tensor) -> Tensor:
    beyond = eta > _LINEAR_FROM
    tangent = _LINEAR_FROM + torch.log1p(torch.where(beyond, eta - _LINEAR_FROM, 0.0))
    return torch.where(beyond, tangent, eta)


def _wide(x: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return x if x.device.type == "mps" else x.double()


class _PoissonValues(ValueDistribution):
    def __init__(self, eta: Tensor) -> None:
        self.eta, self.log_rate = eta, _log_rate(_wide(eta))
        super().__init__(eta.shape)

    @property
    def mean(self) -> Tensor:
        return self.log_rate.exp().to(self.eta.dtype)

    def tensors(self) -> dict[str, Tensor]:
        return {"log_rate": self.log_rate.to(self.eta.dtype)}

    def log_prob_values(self, value: Tensor) -> Tensor:
        x = _wide(value)
        found = x * self.log_rate - self.log_rate.exp() - torch.lgamma(x + 1)
        return found.to(self.eta.dtype)

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        return torch.poisson(self.mean.expand(shape), generator=generator)


class _NegativeBinomialValues(ValueDistribution):
    def __init__(self, eta: Tensor, log_r: Tensor) -> None:
        self.eta, self.log_mean, self.log_r = eta, _log_rate(_wide(eta)), _wide(log_r)
        super().__init__(eta.shape)

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp().to(self.eta.dtype)

    def tensors(self) -> dict[str, Tensor]:
        found = {"log_mean": self.log_mean, "log_r": self.log_r}
        return {name: value.to(self.eta.dtype) for name, value in found.items()}

    def log_prob_values(self, value: Tensor) -> Tensor:
        x, r, odds = _wide(value), self.log_r.exp(), self.log_mean - self.log_r
        zero = torch.zeros_like(odds)
        ways = _log_rising(x, r, self.log_r) - torch.lgamma(x + 1)
        found = ways - r * torch.logaddexp(odds, zero) - x * torch.logaddexp(-odds, zero)
        return found.to(self.eta.dtype)

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """A Poisson draw whose rate is a gamma draw."""
        r = self.log_r.exp().expand(shape).contiguous()
        gamma = torch._standard_gamma(r, generator=generator)  # pyright: ignore
        rate = gamma * (self.log_mean - self.log_r).exp()
        return torch.poisson(rate, generator=generator).to(self.eta.dtype)


def _log_rising(x: Tensor, r: Tensor, log_r: Tensor) -> Tensor:
    """Log Γ(x + r) - log Γ(r), whose terms are far larger than their difference for large r.

    There log Γ(r) = (r - ½) log r - r + ½ log 2π + 1/(12 r) - …, and the large terms of the two
    cancel by hand.
    """
    large = r > _STIRLING_FROM
    small_r, large_r = torch.where(large, 1.0, r), torch.where(large, r, _STIRLING_FROM)
    ratio = torch.log1p(x / large_r)
    series = x * log_r + (x + large_r - 0.5) * ratio - x + (1 / (x + large_r) - 1 / large_r) / 12
    return torch.where(large, series, torch.lgamma(x + small_r) - torch.lgamma(small_r))


class _CategoricalValues(ValueDistribution):
    def __init__(self, logits: Tensor) -> None:
        self.log_weights = logits.log_softmax(-2)  # (..., C, P)
        super().__init__(logits.shape[:-2] + logits.shape[-1:])

    @property
    def mean(self) -> Tensor:
        C = self.log_weights.shape[-2]
        codes = torch.arange(C, dtype=self.log_weights.dtype, device=self.log_weights.device)
        return (self.log_weights.exp() * codes[:, None]).sum(-2)

    def tensors(self) -> dict[str, Tensor]:
        return {"log_probabilities": self.log_weights}

    def log_prob_values(self, value: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        index = value.long().expand(batch + self.event_shape).unsqueeze(-2)
        weights = self.log_weights.expand(batch + self.log_weights.shape[-2:])
        return weights.gather(-2, index).squeeze(-2)

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        each = shape[:-1] + self.log_weights.shape[-2:]
        gumbel = -(-uniform(each, self.log_weights, generator).log()).log()
        return (self.log_weights + gumbel).argmax(-2).to(self.log_weights.dtype)

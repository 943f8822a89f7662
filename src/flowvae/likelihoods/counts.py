"""Likelihoods of whole numbers: Poisson and negative binomial counts, categories."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from flowvae.config.options import MOST
from flowvae.likelihoods.base import CATEGORIES, COUNTS, Likelihood, ValueDistribution, uniform

__all__ = ["Categorical", "NegativeBinomial", "Poisson"]

_LINEAR_FROM = 10.0


class Poisson(Likelihood):
    """P(x) = λ^x e^{-λ} / x! for each value, from η: log λ = η up to η = 10, whence λ goes on
    along its tangent instead of overflowing.

    The encoder sees log(1 + x).

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
        return _PoissonValues(_log_rate(eta))


class NegativeBinomial(Likelihood):
    """P(x) = Γ(x + r) / (Γ(r) x!) · (r/(r + μ))^r (μ/(r + μ))^x for each value: mean μ, variance
    μ + μ²/r.

    The decoder writes log μ (as :class:`Poisson` does log λ) and log r for each value; log r stays
    within ±7, beyond which the distribution is the Poisson's to all purposes. The encoder sees
    log(1 + x).

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
        return _NegativeBinomialValues(_log_rate(eta), 7 * torch.tanh(raw / 7))


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
    return mean.clamp(min=1e-3).log().clamp(max=_LINEAR_FROM)


def _log_rate(eta: Tensor) -> Tensor:
    beyond = eta > _LINEAR_FROM
    tangent = _LINEAR_FROM + torch.log1p(torch.where(beyond, eta - _LINEAR_FROM, 0.0))
    return torch.where(beyond, tangent, eta)


class _PoissonValues(ValueDistribution):
    def __init__(self, log_rate: Tensor) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape)

    @property
    def mean(self) -> Tensor:
        return self.log_rate.exp()

    def log_prob_values(self, value: Tensor) -> Tensor:
        return value * self.log_rate - self.mean - torch.lgamma(value + 1)

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        return torch.poisson(self.mean.expand(shape), generator=generator)


class _NegativeBinomialValues(ValueDistribution):
    def __init__(self, log_mean: Tensor, log_r: Tensor) -> None:
        self.log_mean, self.log_r = log_mean, log_r
        super().__init__(log_mean.shape)

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp()

    def log_prob_values(self, value: Tensor) -> Tensor:
        r, odds = self.log_r.exp(), self.log_mean - self.log_r
        ways = torch.lgamma(value + r) - torch.lgamma(r) - torch.lgamma(value + 1)
        return ways - r * softplus(odds) - value * softplus(-odds)

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """A Poisson draw whose rate is a gamma draw."""
        r = self.log_r.exp().expand(shape).contiguous()
        gamma = torch._standard_gamma(r, generator=generator)  # pyright: ignore
        rate = gamma * (self.log_mean - self.log_r).exp()
        return torch.poisson(rate, generator=generator)


class _CategoricalValues(ValueDistribution):
    def __init__(self, logits: Tensor) -> None:
        self.log_weights = logits.log_softmax(-2)  # (..., C, P)
        super().__init__(logits.shape[:-2] + logits.shape[-1:])

    @property
    def mean(self) -> Tensor:
        C = self.log_weights.shape[-2]
        codes = torch.arange(C, dtype=self.log_weights.dtype, device=self.log_weights.device)
        return (self.log_weights.exp() * codes[:, None]).sum(-2)

    def log_prob_values(self, value: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        index = value.long().expand(batch + self.event_shape).unsqueeze(-2)
        weights = self.log_weights.expand(batch + self.log_weights.shape[-2:])
        return weights.gather(-2, index).squeeze(-2)

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        each = shape[:-1] + self.log_weights.shape[-2:]
        gumbel = -(-uniform(each, self.log_weights, generator).log()).log()
        return (self.log_weights + gumbel).argmax(-2).to(self.log_weights.dtype)

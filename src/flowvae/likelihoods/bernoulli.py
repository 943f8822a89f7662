"""Bernoulli, and continuous Bernoulli for values between 0 and 1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flowvae.likelihoods.base import UNIT_INTERVAL, Likelihood, Measure, ValueDistribution, uniform

__all__ = ["Bernoulli", "ContinuousBernoulli"]


class Bernoulli(Likelihood):
    """Independent Bernoulli pixels from logits l:  log p(x|z) = Σ_i x_i l_i - softplus(l_i).

    Computed from logits, never through a sigmoid, so it is finite for every finite logit. On grey
    pixels x in (0, 1) the same formula is no density of anything: a *pseudo-likelihood*, to be
    called so and never to be compared with results on binary pixels.

    Examples:
        >>> import torch
        >>> p = Bernoulli()(torch.zeros(3, 784))
        >>> p.log_prob(torch.ones(3, 784))[0].item() / 784   # log ½ per pixel
        -0.693147...
    """

    support = UNIT_INTERVAL

    def forward(self, logits: Float[Tensor, "*batch P"]) -> ValueDistribution:
        return _Pixels(logits)

    def measure(self, binary: bool) -> Measure:
        return "probability" if binary else "pseudo-likelihood"

    def outputs_at_mean(self, mean: Float[Tensor, " P"]) -> Tensor:
        return torch.logit(mean, eps=1e-3)  # a pixel that never was 1 may be so yet


class _Pixels(ValueDistribution):
    """Independent Bernoulli pixels. No argument is checked: grey pixels are allowed."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape)

    def tensors(self) -> dict[str, Tensor]:
        return {"logits": self.logits}

    def log_prob_values(self, value: Tensor) -> Tensor:
        value, logits = torch.broadcast_tensors(value, self.logits)
        return -functional.binary_cross_entropy_with_logits(logits, value, reduction="none")

    def log_prob_pairs(self, value: Tensor) -> Tensor:
        """By one matrix product."""
        return value @ self.logits.T - functional.softplus(self.logits).sum(-1)

    def log_prob_pairs_observed(self, value: Tensor) -> Tensor:
        """By two of them."""
        there = (~value.isnan()).to(value.dtype)
        return value.nan_to_num(0.0) @ self.logits.T - there @ functional.softplus(self.logits).T

    @property
    def mean(self) -> Tensor:
        return self.logits.sigmoid()

    @property
    def variance(self) -> Tensor:
        p = self.mean
        return p * (1 - p)

    def tilted(self, offset: Tensor, slope: Tensor) -> tuple[Tensor, ValueDistribution]:
        """A Bernoulli again, of logit l + log σ(a + b) - log σ(a)."""
        zero, one = functional.logsigmoid(offset), functional.logsigmoid(offset + slope)
        log_zero = zero + functional.logsigmoid(-self.logits)
        log_one = one + functional.logsigmoid(self.logits)
        return torch.logaddexp(log_zero, log_one), _Pixels(self.logits + one - zero)

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        return torch.bernoulli(self.mean.expand(shape), generator=generator)


class ContinuousBernoulli(Likelihood):
    """p(x) = l e^{xl} / (e^l - 1) on [0, 1] for each value, from logits l.

    This is λ^x (1 - λ)^{1-x} with its normaliser, λ = sigmoid(l). In l it has no bad point but the
    removable one at l = 0 (λ = ½), where a series takes over.

    Source: "The continuous Bernoulli: fixing a pervasive error in variational autoencoders",
    arXiv 1907.06845.

    Examples:
        >>> import torch
        >>> ContinuousBernoulli()(torch.zeros(1, 2)).log_prob(torch.rand(1, 2))   # uniform
        tensor([0.])
    """

    support = UNIT_INTERVAL

    def forward(self, logits: Float[Tensor, "*batch P"]) -> ValueDistribution:
        return _ContinuousBernoulliValues(logits)


class _ContinuousBernoulliValues(ValueDistribution):
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape)

    def tensors(self) -> dict[str, Tensor]:
        return {"logits": self.logits}

    def log_prob_values(self, value: Tensor) -> Tensor:
        # log((e^l - 1) / l) = l/2 + log(sinh(l/2) / (l/2))
        return (value - 0.5) * self.logits - _log_sinhc(0.5 * self.logits)

    @property
    def mean(self) -> Tensor:
        """E x = ½ + ½ (coth(l/2) - 2/l), (..., P)."""
        h = 0.5 * self.logits
        small = h.abs() < 0.3
        h_2, far = h.square(), torch.where(small, 1.0, h)
        series = h * (1 / 3 - h_2 * (1 / 45 - h_2 * (2 / 945 - h_2 * (1 / 4725 - h_2 * 2 / 93555))))
        return 0.5 + 0.5 * torch.where(small, series, 1 / torch.tanh(far) - 1 / far)

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """By the inverse of F(x) = (e^{xl} - 1) / (e^l - 1), taken where l < 0."""
        u = uniform(shape, self.logits, generator)
        negative = -self.logits.abs().clamp(min=1e-6)
        x = (torch.log1p(u * torch.expm1(negative)) / negative).clamp(0, 1)
        return torch.where(self.logits > 0, 1 - x, x)


def _log_sinhc(h: Tensor) -> Tensor:
    """log(sinh(h) / h), accurate at every h."""
    small = h.abs() < 0.3
    h_2, far = h.square(), torch.where(small, 1.0, h.abs())
    # To h¹⁰; the next term is below 1e-13 where it is used.
    terms = 1 / 180 - h_2 * (1 / 2835 - h_2 * (1 / 37800 - h_2 / 467775))
    series = h_2 * (1 / 6 - h_2 * terms)
    return torch.where(small, series, far + torch.log1p(-(-2 * far).exp()) - (2 * far).log())

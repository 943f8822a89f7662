"""Discretized logistic likelihoods for 8-bit images: values k/255 with k = 0 … 255."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from flowvae.config.options import PositiveInt
from flowvae.likelihoods.base import EIGHT_BIT, Likelihood, ValueDistribution, uniform

__all__ = ["DiscretizedLogistic", "DiscretizedLogisticMixture"]

_BIN = 1 / 255


class DiscretizedLogistic(Likelihood):
    """P(x = k/255) = F((k + ½)/255) - F((k - ½)/255), F the logistic distribution of mean m and
    scale s; the first and the last value take the tails.

    The decoder writes m - ½ and log s + 3 for each value; log s stays within (-7.5, 1.5). With
    log p in nats, bits per dimension are -log p / (P log 2).

    Source: "Improving Variational Inference with Inverse Autoregressive Flow", arXiv 1606.04934;
    "PixelCNN++", arXiv 1701.05517.

    Examples:
        >>> import torch
        >>> p = DiscretizedLogistic()(torch.zeros(3, 2 * 784))
        >>> p.mean.shape, p.log_prob(torch.zeros(3, 784)).shape
        (torch.Size([3, 784]), torch.Size([3]))
    """

    support = EIGHT_BIT
    measured = "probability"
    outputs_per_dim = 2

    def outputs_at_mean(self, mean: Float[Tensor, " P"]) -> Tensor:
        return mean - 0.5

    def forward(self, outputs: Float[Tensor, "*batch N"]) -> ValueDistribution:
        m, raw = (part.unsqueeze(-2) for part in outputs.chunk(2, -1))
        return _LogisticValues(torch.zeros_like(m), 0.5 + m, _log_scale(raw))


class DiscretizedLogisticMixture(Likelihood):
    """A mixture of n discretized logistic distributions for each value.

    The decoder writes weights (as logits), means and scales, n of each for each value; the means
    start spread over [0, 1].

    Args:
        num_mixtures: n ≥ 1 logistics per value.

    Source: "PixelCNN++", arXiv 1701.05517, without its dependence between channels.

    Examples:
        >>> import torch
        >>> p = DiscretizedLogisticMixture(num_mixtures=4)
        >>> p(torch.zeros(3, p.num_outputs(784))).log_prob(torch.zeros(3, 784)).shape
        torch.Size([3])
    """

    support = EIGHT_BIT
    measured = "probability"

    def __init__(self, num_mixtures: PositiveInt = 5) -> None:
        super().__init__()
        if num_mixtures < 1:
            raise ValueError(f"num_mixtures: expected at least 1, got {num_mixtures}")
        self.num_mixtures, self.outputs_per_dim = num_mixtures, 3 * num_mixtures

    def forward(self, outputs: Float[Tensor, "*batch N"]) -> ValueDistribution:
        n = self.num_mixtures
        logits, m, raw = outputs.unflatten(-1, (3, n, -1)).unbind(-3)
        centres = (torch.arange(n, dtype=m.dtype, device=m.device)[:, None] + 0.5) / n
        return _LogisticValues(logits, centres + m, _log_scale(raw))


def _log_scale(raw: Tensor) -> Tensor:
    # Bounded: below a fifth of a grey level nothing is gained, and s must not overflow.
    return -3 + 4.5 * torch.tanh(raw / 4.5)


class _LogisticValues(ValueDistribution):
    """Logits, means and log-scales of n components, (..., n, P) each."""

    def __init__(self, logits: Tensor, loc: Tensor, log_scale: Tensor) -> None:
        self.loc, self.scale = loc, log_scale.exp()
        self.log_weights = logits.log_softmax(-2)
        super().__init__(loc.shape[:-2] + loc.shape[-1:])

    def tensors(self) -> dict[str, Tensor]:
        return {"log_weights": self.log_weights, "loc": self.loc, "scale": self.scale}

    def log_prob_values(self, value: Tensor) -> Tensor:
        """With σ(b) - σ(a) = σ(b) σ(-a) (1 - e^{a-b}), no difference of two near ones is taken."""
        x = value.unsqueeze(-2)
        above = logsigmoid((x + 0.5 * _BIN - self.loc) / self.scale)
        below = logsigmoid((self.loc - x + 0.5 * _BIN) / self.scale)
        inner = above + below + torch.log(-torch.expm1(-_BIN / self.scale))
        log_p = torch.where(x < 0.5 * _BIN, above, torch.where(x > 1 - 0.5 * _BIN, below, inner))
        return (self.log_weights + log_p).logsumexp(-2)

    @property
    def mean(self) -> Tensor:
        """E x of the logistic with its tails at 0 and 1, to within half a grey level: (..., P).

        ∫₀¹ (1 - F(t)) dt = s (softplus(m/s) - softplus((m - 1)/s)).
        """
        s = self.scale
        component = s * (softplus(self.loc / s) - softplus((self.loc - 1) / s))
        return (self.log_weights.exp() * component).sum(-2)

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        n = self.loc.shape[-2]
        each = shape[:-1] + torch.Size([n]) + shape[-1:]
        gumbel = -(-uniform(each, self.loc, generator).log()).log()
        chosen = (self.log_weights + gumbel).argmax(-2, keepdim=True)
        u = uniform(shape, self.loc, generator)
        loc = self.loc.expand(each).gather(-2, chosen).squeeze(-2)
        scale = self.scale.expand(each).gather(-2, chosen).squeeze(-2)
        x = loc + scale * (u.log() - torch.log1p(-u))
        return (x * 255).round().clamp(0, 255) / 255

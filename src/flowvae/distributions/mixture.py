"""Mixtures over z."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.distributions.base import FlowSample, LatentDistribution

__all__ = ["MixtureDistribution"]


class MixtureDistribution(LatentDistribution):
    """Σ_m π_m q_m(z), the q_m in a batch (M,).

    Draws are differentiable in the chosen component's parameters, not in the weights π.

    Args:
        components: batch (M,), event (D,).
        log_weights: log π, normalised, (M,); or (..., M), and the mixture has batch (...).
        choose: indices (n,) -> those components, batch (n,).

    Examples:
        >>> import torch
        >>> from flowvae.distributions import DiagonalGaussian
        >>> loc = torch.tensor([[-1.0], [1.0]])
        >>> p = MixtureDistribution(DiagonalGaussian(loc, 0 * loc), torch.tensor([0.5, 0.5]).log(),
        ...                         lambda i: DiagonalGaussian(loc[i], 0 * loc[i]))
        >>> p.log_prob(torch.zeros(1)), p.rsample((3,)).shape
        (tensor(-1.4189), torch.Size([3, 1]))
    """

    def __init__(
        self,
        components: LatentDistribution,
        log_weights: Float[Tensor, "*batch M"],
        choose: Callable[[Tensor], LatentDistribution],
    ) -> None:
        self.components, self.log_weights, self._choose = components, log_weights, choose
        super().__init__(log_weights.shape[:-1], components.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return (self.components.log_prob(value.unsqueeze(-2)) + self.log_weights).logsumexp(-1)

    def rsample_terms(
        self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> FlowSample:
        count = math.prod(sample_shape)
        weights = self.log_weights.detach().exp().reshape(-1, self.log_weights.shape[-1])
        chosen = torch.multinomial(weights, max(count, 1), replacement=True, generator=generator)
        z = self._choose(chosen[:, :count].T.flatten()).rsample((), generator)
        z = z.reshape(*sample_shape, *self.batch_shape, *self.event_shape)
        log_prob = self.log_prob(z)
        return FlowSample(z, log_prob, torch.zeros_like(log_prob))

    def detached(self) -> MixtureDistribution:
        return MixtureDistribution(
            self.components.detached(),
            self.log_weights.detach(),
            lambda index: self._choose(index).detached(),
        )

"""One of two distributions for each datum."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from flowvae.distributions.base import FlowSample, LatentDistribution

__all__ = ["SelectedDistribution"]


class SelectedDistribution(LatentDistribution):
    """The first distribution where a condition is true, else the second, as ``torch.where``.

    Args:
        condition: (...).
        first: batch (...), event (D,).
        second: the same.

    Examples:
        >>> import torch
        >>> from flowvae.distributions import DiagonalGaussian
        >>> zeros = torch.zeros(2, 1)
        >>> near, far = DiagonalGaussian(zeros, zeros), DiagonalGaussian(zeros + 9, zeros)
        >>> q = SelectedDistribution(torch.tensor([True, False]), near, far)
        >>> q.log_prob(torch.tensor([[0.0], [9.0]]))
        tensor([-0.9189, -0.9189])
    """

    def __init__(
        self,
        condition: Bool[Tensor, "*batch"],
        first: LatentDistribution,
        second: LatentDistribution,
    ) -> None:
        self.condition, self.first, self.second = condition, first, second
        super().__init__(first.batch_shape, first.event_shape, validate_args=False)

    def rsample_terms(
        self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> FlowSample:
        return self._of(
            self.first.rsample_terms(sample_shape, generator),
            self.second.rsample_terms(sample_shape, generator),
        )

    def at_noise(self, eps: Tensor) -> FlowSample:
        return self._of(self.first.at_noise(eps), self.second.at_noise(eps))

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.where(self.condition, self.first.log_prob(value), self.second.log_prob(value))

    def _of(self, first: FlowSample, second: FlowSample) -> FlowSample:
        return FlowSample(
            torch.where(self.condition.unsqueeze(-1), first.z, second.z),
            torch.where(self.condition, first.log_base, second.log_base),
            torch.where(self.condition, first.ladj, second.ladj),
        )

"""What the heads of closed-form flows have in common."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvae.config.options import NumFlows
from flowvae.distributions import DiagonalGaussian, FlowDistribution
from flowvae.flows.bijection import Bijection

__all__ = ["FlowPosterior", "LinearHeads", "check_sizes"]


@runtime_checkable
class LinearHeads(Protocol):
    """A head whose parameters of q(z|x) are the output of one linear layer."""

    heads: nn.Linear


class FlowPosterior(nn.Module):
    """q(z|x): a diagonal Gaussian through K flows, every parameter an affine map of the features.

    A family writes :meth:`parameter_shapes` and :meth:`bijection`. K = 0 is the plain Gaussian.

    Args:
        in_features: width H of the encoder's output.
        latent_dim: D ≥ 1.
        num_flows: K, the number of flows; 0 is a plain Gaussian.
        amortized: whether the encoder writes the flows' parameters; else all data share them, and
            μ and log σ² alone depend on x.
        standardized: whether the flows act on the noise, z = μ + σ ⊙ f(ε); else on z₀ = μ + σ ⊙ ε.
    """

    def __init__(
        self,
        in_features: int,
        latent_dim: int,
        num_flows: NumFlows = 3,
        amortized: bool = True,
        standardized: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(latent_dim, num_flows)
        self.latent_dim, self.num_flows = latent_dim, num_flows
        self.amortized, self.standardized = amortized, standardized
        self._shapes = self.parameter_shapes()
        sizes = [latent_dim, latent_dim]
        if amortized:
            sizes += [math.prod(shape) for shape in self._shapes.values()]
        self._sizes = sizes
        # One product for all heads; nn.Linear initialises by its input width alone, so this is
        # the same model as separate layers.
        self.heads = nn.Linear(in_features, sum(sizes))
        self.shared = nn.ParameterDict()
        if not amortized:
            for name, shape in self._shapes.items():
                self.shared[name] = nn.Parameter(torch.randn(shape) / latent_dim**0.5)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter of the K flows; K comes first."""
        raise NotImplementedError

    def bijection(self, *parameters: Tensor) -> Bijection:
        """The flows with these parameters, (..., *shape) each, in their order."""
        raise NotImplementedError

    def forward(self, features: Float[Tensor, "*batch H"]) -> FlowDistribution:
        loc, log_var, *flat = self.heads(features).split(self._sizes, -1)
        base = DiagonalGaussian(loc, log_var)
        if self.amortized:
            shapes = self._shapes.values()
            lead = loc.shape[:-1]
            found = [p.view(*lead, *shape) for p, shape in zip(flat, shapes, strict=True)]
        else:
            found = [self.shared[name] for name in self._shapes]
        return FlowDistribution(base, self.bijection(*found), self.standardized)


def check_sizes(latent_dim: int, num_flows: int = 0) -> None:
    if latent_dim < 1:
        raise ValueError(f"latent_dim: expected at least 1, got {latent_dim}")
    if num_flows < 0:
        raise ValueError(f"num_flows: expected at least 0, got {num_flows}")

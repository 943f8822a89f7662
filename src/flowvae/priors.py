"""Priors p(z): each is a module that returns a distribution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowvae.config.options import NumFlows, PositiveInt, Widths
from flowvae.distributions import (
    DiagonalGaussian,
    FlowDistribution,
    LatentDistribution,
    MixtureDistribution,
    StandardGaussian,
)
from flowvae.flows.coupling import CouplingFlow

__all__ = ["FlowPrior", "GaussianMixture", "NormalPrior", "StandardNormal", "VampPrior"]


class StandardNormal(nn.Module):
    """p(z) = N(0, I) on R^D; log p(z) = -D/2 log 2π - ½ ‖z‖².

    Examples:
        >>> import torch
        >>> StandardNormal(latent_dim=2)().log_prob(torch.zeros(1, 2))
        tensor([-1.8379])
    """

    zeros: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> DiagonalGaussian:
        return StandardGaussian(self.zeros)


class NormalPrior(nn.Module):
    """p(z) = N(μ, diag σ²), learned; given a condition y, μ and log σ² are affine in it.

    With classes as condition each has a mean and deviations of its own. It starts at N(0, I).

    Args:
        latent_dim: D.
        condition_dim: C; 0 is no condition.

    Examples:
        >>> import torch
        >>> NormalPrior(latent_dim=2, condition_dim=10)(torch.eye(10)).batch_shape
        torch.Size([10])
    """

    conditional = True

    def __init__(self, latent_dim: int, condition_dim: int = 0) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.zeros(2 * latent_dim))
        slope = torch.zeros(condition_dim, 2 * latent_dim)
        self.slope = nn.Parameter(slope) if condition_dim else None

    def forward(self, condition: Tensor | None = None) -> DiagonalGaussian:
        both = self.constant
        if self.slope is not None and condition is not None:
            both = both + condition @ self.slope
        return DiagonalGaussian(*both.chunk(2, -1))


class GaussianMixture(nn.Module):
    """p(z) = Σ_m π_m N(z; μ_m, diag σ_m²), all of it learned; given a condition y, π depends on it.

    log π(y) = log softmax(l + A y).

    Args:
        latent_dim: D.
        num_components: M ≥ 1 components.
        condition_dim: C; 0 is no condition.

    Examples:
        >>> import torch
        >>> GaussianMixture(latent_dim=2, num_components=5)().log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    conditional = True

    def __init__(
        self, latent_dim: int, num_components: PositiveInt = 100, condition_dim: int = 0
    ) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_var = nn.Parameter(torch.zeros(num_components, latent_dim))
        self.logits = nn.Parameter(torch.zeros(num_components))
        slope = torch.zeros(condition_dim, num_components)
        self.slope = nn.Parameter(slope) if condition_dim else None

    def forward(self, condition: Tensor | None = None) -> MixtureDistribution:
        logits = self.logits
        if self.slope is not None and condition is not None:
            logits = logits + condition @ self.slope
        return MixtureDistribution(
            DiagonalGaussian(self.loc, self.log_var),
            logits.log_softmax(-1),
            lambda index: DiagonalGaussian(self.loc[index], self.log_var[index]),
        )


class VampPrior(nn.Module):
    """p(z) = 1/M Σ_m q(z|u_m): the mean of the posterior at M pseudo-inputs u_m, which are learned.

    The posterior is the model's own; :class:`flowvae.VAE` hands it over by :meth:`bind`. Its family
    must have a ``log_prob``.

    Args:
        data_dim: P.
        num_components: M ≥ 1 pseudo-inputs.
        to_support: maps R to where data lies, so that pseudo-inputs look like data; none for data
            on R.

    Source: "VAE with a VampPrior", arXiv 1705.07120.

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.Config(prior="vampprior", num_components=5), (6,))
        >>> model.prior().log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    log_weights: Tensor

    def __init__(
        self,
        data_dim: int,
        num_components: PositiveInt = 100,
        to_support: Callable[[Tensor], Tensor] | None = torch.sigmoid,
    ) -> None:
        super().__init__()
        self.inputs = nn.Parameter(torch.randn(num_components, data_dim))
        self._to_support = to_support
        self._posterior: Callable[[Tensor], LatentDistribution] | None = None
        log_weights = torch.full((num_components,), 1 / num_components).log()
        self.register_buffer("log_weights", log_weights, persistent=False)

    def bind(self, posterior: Callable[[Tensor], LatentDistribution]) -> None:
        """Say what q(z|x) is: (M, P) -> a distribution of batch (M,)."""
        self._posterior = posterior

    @property
    def pseudo_inputs(self) -> Tensor:
        """u, (M, P)."""
        return self.inputs if self._to_support is None else self._to_support(self.inputs)

    def forward(self) -> MixtureDistribution:
        posterior = self._posterior
        if posterior is None:
            raise RuntimeError("VampPrior: expected bind(posterior) before the first call")
        u = self.pseudo_inputs
        return MixtureDistribution(
            posterior(u), self.log_weights, lambda index: posterior(u[index])
        )


class FlowPrior(nn.Module):
    """p(z): N(0, I) pushed through K affine coupling layers, which are learned.

    Args:
        latent_dim: D.
        num_flows: K, the number of flows.
        hidden_dims: widths of each layer's network.
        condition_dim: C numbers of a condition, which the networks see too; 0 is none.

    Source: "Variational Lossy Autoencoder", arXiv 1611.02731, for flows as priors; "Density
    estimation using Real NVP", arXiv 1605.08803, for the flow.

    Examples:
        >>> import torch
        >>> p = FlowPrior(latent_dim=2, num_flows=4)()
        >>> z, log_p = p.rsample_and_log_prob((5,))
        >>> torch.allclose(log_p, p.log_prob(z), atol=1e-4)
        True
    """

    conditional = True
    zeros: Tensor

    def __init__(
        self,
        latent_dim: int,
        num_flows: NumFlows = 8,
        hidden_dims: Widths = (128,),
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        self.flow = CouplingFlow(latent_dim, num_flows, hidden_dims, condition_dim)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self, condition: Tensor | None = None) -> FlowDistribution:
        zeros = self.zeros
        if condition is not None:
            zeros = zeros.expand(*condition.shape[:-1], -1)
        return FlowDistribution(DiagonalGaussian(zeros, zeros), self.flow(condition))

"""Posteriors whose flows are networks: inverse autoregressive, coupling, neural spline."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from flowvae.config.options import NumFlows, Widths
from flowvae.distributions import DiagonalGaussian, FlowDistribution
from flowvae.flows.autoregressive import InverseAutoregressiveFlow
from flowvae.flows.coupling import CouplingFlow
from flowvae.flows.layered import LayeredFlow
from flowvae.flows.spline import SplineFlow
from flowvae.posteriors.base import check_sizes

__all__ = ["CouplingPosterior", "IAFPosterior", "SplinePosterior"]


class _NeuralPosterior(nn.Module):
    """q(z|x): a diagonal Gaussian through K flows whose networks see z and the features.

    Args:
        in_features: width H of the encoder's output.
        latent_dim: D ≥ 1.
        num_flows: K, the number of flows; 0 is a plain Gaussian.
        hidden_dims: widths of each flow's network.
        amortized: whether the networks see the features; else they see z alone.
    """

    flow_class: Callable[..., LayeredFlow]
    standardized = False

    def __init__(
        self,
        in_features: int,
        latent_dim: int,
        num_flows: NumFlows = 3,
        hidden_dims: Widths = (128,),
        amortized: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(latent_dim, num_flows)
        self.num_flows, self.amortized = num_flows, amortized
        self.heads = nn.Linear(in_features, 2 * latent_dim)
        context_dim = in_features if amortized else 0
        self.flow = type(self).flow_class(latent_dim, num_flows, hidden_dims, context_dim)

    def forward(self, features: Float[Tensor, "*batch H"]) -> FlowDistribution:
        base = DiagonalGaussian(*self.heads(features).chunk(2, -1))
        context = features if self.amortized else None
        return FlowDistribution(base, self.flow(context), self.standardized)


class IAFPosterior(_NeuralPosterior):
    """q(z|x): a diagonal Gaussian through K inverse autoregressive flows.

    Arguments are those of :class:`CouplingPosterior`. A density at a point that was not drawn
    takes D passes per flow.

    Source: "Improving Variational Inference with Inverse Autoregressive Flow", arXiv 1606.04934.

    Examples:
        >>> import torch
        >>> head = IAFPosterior(in_features=8, latent_dim=3, num_flows=2)
        >>> head(torch.randn(5, 8)).log_prob(torch.zeros(7, 5, 3)).shape
        torch.Size([7, 5])
    """

    flow_class = InverseAutoregressiveFlow


class CouplingPosterior(_NeuralPosterior):
    """q(z|x): a diagonal Gaussian through K affine coupling layers.

    Args:
        in_features: width H of the encoder's output.
        latent_dim: D ≥ 1.
        num_flows: K, the number of flows; 0 is a plain Gaussian.
        hidden_dims: widths of each layer's network.
        amortized: whether the networks see the features; else they see z alone.

    Source: "Density estimation using Real NVP", arXiv 1605.08803.

    Examples:
        >>> import torch
        >>> head = CouplingPosterior(in_features=8, latent_dim=3, num_flows=4)
        >>> head(torch.randn(5, 8)).log_prob(torch.zeros(7, 5, 3)).shape
        torch.Size([7, 5])
    """

    flow_class = CouplingFlow


class SplinePosterior(_NeuralPosterior):
    """q(z|x): a diagonal Gaussian whose noise goes through K neural spline coupling layers.

    z = μ + σ ⊙ f(ε): the splines act within ±5 standard deviations of the base. They are zuko's,
    an optional extra. Arguments are those of :class:`CouplingPosterior`.

    Source: "Neural Spline Flows", arXiv 1906.04032.
    """

    flow_class = SplineFlow
    standardized = True

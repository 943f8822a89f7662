"""The three Sylvester posteriors (van den Berg et al. 2018, arXiv 1803.05649)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from flowvae.config.options import NumFlows, PositiveInt
from flowvae.flows.sylvester import (
    Basis,
    FlipBasis,
    GramSchmidtBasis,
    HouseholderBasis,
    SylvesterTransform,
)
from flowvae.posteriors.base import FlowPosterior

__all__ = [
    "HouseholderSylvesterPosterior",
    "OrthogonalSylvesterPosterior",
    "TriangularSylvesterPosterior",
]


class _SylvesterPosterior(FlowPosterior):
    """M units a layer: heads off_diagonal (K, M, M), diag_1, diag_2 and b (K, M), and the basis."""

    hidden_units: int
    basis: Callable[..., Basis]

    def basis_shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        K, M = self.num_flows, self.hidden_units
        shapes = {"off_diagonal": (K, M, M), "diag_1": (K, M), "diag_2": (K, M), "b": (K, M)}
        return {**shapes, **self.basis_shapes()}

    def bijection(self, *parameters: Tensor) -> SylvesterTransform:
        return SylvesterTransform(*parameters, basis=type(self).basis)


class OrthogonalSylvesterPosterior(_SylvesterPosterior):
    """q(z|x): a diagonal Gaussian through K Sylvester flows on M orthonormal directions each.

    Args:
        in_features: width H of the encoder's output.
        latent_dim: D ≥ 1.
        num_flows: K, the number of flows; 0 is a plain Gaussian.
        num_orthogonal: M ≥ 1 orthonormal directions per flow; no more than D are used.
        amortized: whether the encoder writes the flows' parameters; else all data share them.
        standardized: whether the flows act on the noise, z = μ + σ ⊙ f(ε).

    Source: "Sylvester Normalizing Flows for Variational Inference", arXiv 1803.05649.

    Examples:
        >>> import torch
        >>> head = OrthogonalSylvesterPosterior(8, latent_dim=5, num_flows=3, num_orthogonal=2)
        >>> head(torch.randn(6, 8)).log_prob(torch.zeros(6, 5)).shape
        torch.Size([6])
    """

    basis = GramSchmidtBasis

    def __init__(
        self,
        in_features: int,
        latent_dim: int,
        num_flows: NumFlows = 3,
        num_orthogonal: PositiveInt = 8,
        amortized: bool = True,
        standardized: bool = False,
    ) -> None:
        self.hidden_units = min(num_orthogonal, latent_dim)
        super().__init__(in_features, latent_dim, num_flows, amortized, standardized)

    def basis_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"columns": (self.num_flows, self.latent_dim, self.hidden_units)}


class HouseholderSylvesterPosterior(_SylvesterPosterior):
    """q(z|x): a diagonal Gaussian through K Sylvester flows, each turned by H reflections; M = D.

    Args:
        in_features: width of the encoder's output.
        latent_dim: D ≥ 1.
        num_flows: K, the number of flows; 0 is a plain Gaussian.
        num_householder: H ≥ 1 reflections per flow.
        amortized: whether the encoder writes the flows' parameters; else all data share them.
        standardized: whether the flows act on the noise, z = μ + σ ⊙ f(ε).

    Source: "Sylvester Normalizing Flows for Variational Inference", arXiv 1803.05649.

    Examples:
        >>> import torch
        >>> head = HouseholderSylvesterPosterior(8, latent_dim=5, num_flows=3, num_householder=2)
        >>> head(torch.randn(6, 8)).log_prob(torch.zeros(6, 5)).shape
        torch.Size([6])
    """

    basis = HouseholderBasis

    def __init__(
        self,
        in_features: int,
        latent_dim: int,
        num_flows: NumFlows = 3,
        num_householder: PositiveInt = 8,
        amortized: bool = True,
        standardized: bool = False,
    ) -> None:
        self.hidden_units, self.num_householder = latent_dim, num_householder
        super().__init__(in_features, latent_dim, num_flows, amortized, standardized)

    def basis_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"v": (self.num_flows, self.num_householder, self.latent_dim)}


class TriangularSylvesterPosterior(_SylvesterPosterior):
    """q(z|x): a diagonal Gaussian through K Sylvester flows, every second one on the reversed
    coordinates; M = D.

    Q = I where they are not reversed. Arguments are those of :class:`FlowPosterior`.

    Source: "Sylvester Normalizing Flows for Variational Inference", arXiv 1803.05649.

    Examples:
        >>> import torch
        >>> head = TriangularSylvesterPosterior(8, latent_dim=5, num_flows=3)
        >>> head(torch.randn(6, 8)).log_prob(torch.zeros(6, 5)).shape
        torch.Size([6])
    """

    basis = FlipBasis

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        self.hidden_units = self.latent_dim
        return super().parameter_shapes()

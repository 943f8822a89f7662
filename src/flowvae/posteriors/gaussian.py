"""Gaussian posteriors: no flows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvae.distributions import DiagonalGaussian, FullGaussian, LatentDistribution
from flowvae.posteriors.base import check_sizes

__all__ = ["FullGaussianPosterior", "GaussianPosterior"]


class GaussianPosterior(nn.Module):
    """q(z|x) = N(μ, diag σ²): two affine heads, μ (D) and log σ² (D).

    Args:
        in_features: width H of the encoder's output.
        latent_dim: D ≥ 1.

    Source: "Auto-Encoding Variational Bayes", arXiv 1312.6114.

    Examples:
        >>> import torch
        >>> GaussianPosterior(in_features=8, latent_dim=2)(torch.randn(5, 8)).rsample().shape
        torch.Size([5, 2])
    """

    def __init__(self, in_features: int, latent_dim: int) -> None:
        super().__init__()
        check_sizes(latent_dim)
        self.heads = nn.Linear(in_features, 2 * latent_dim)

    def forward(self, features: Float[Tensor, "*batch H"]) -> LatentDistribution:
        return DiagonalGaussian(*self.heads(features).chunk(2, -1))


class FullGaussianPosterior(nn.Module):
    """q(z|x) = N(μ, L Lᵀ), L = diag(σ) (I + N) with N strictly lower triangular.

    Three affine heads: μ (D), log σ² (D) and N's D (D - 1) / 2 entries.

    Args:
        in_features: width H of the encoder's output.
        latent_dim: D ≥ 1.
        amortized: whether N, too, is written by the encoder; else it is shared by all data.

    Source: "Improving Variational Inference with Inverse Autoregressive Flow", arXiv 1606.04934,
    where it is the linear case.

    Examples:
        >>> import torch
        >>> q = FullGaussianPosterior(in_features=8, latent_dim=3)(torch.randn(5, 8))
        >>> q.covariance_matrix.shape
        torch.Size([5, 3, 3])
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, in_features: int, latent_dim: int, amortized: bool = True) -> None:
        super().__init__()
        check_sizes(latent_dim)
        D, off_diagonal = latent_dim, latent_dim * (latent_dim - 1) // 2
        self._sizes = [D, D, off_diagonal] if amortized else [D, D]
        self.heads = nn.Linear(in_features, sum(self._sizes))
        self.shared = None if amortized else nn.Parameter(0.1 * torch.randn(off_diagonal))
        rows, columns = torch.tril_indices(D, D, -1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, features: Float[Tensor, "*batch H"]) -> LatentDistribution:
        loc, log_var, *rest = self.heads(features).split(self._sizes, -1)
        entries = rest[0] if self.shared is None else self.shared
        D = loc.shape[-1]
        lower = entries.new_zeros(*entries.shape[:-1], D, D)
        lower[..., self.rows, self.columns] = entries
        return FullGaussian(loc, log_var, lower.expand(*loc.shape, D))

"""Gaussians: diagonal and full covariance."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.distributions.base import (
    FlowSample,
    LatentDistribution,
    draw,
    standard_log_prob,
    standard_noise,
)
from flowvae.flows.householder import matvec
from flowvae.flows.portable import refuse_if_portable

__all__ = ["DiagonalGaussian", "FullGaussian", "StandardGaussian"]


class DiagonalGaussian(LatentDistribution):
    """N(μ, diag σ²) on R^D, parametrized by log σ².

    log q(z) = -D/2 log 2π - ½ Σ_d (log σ_d² + (z_d - μ_d)²/σ_d²)

    Args:
        loc: μ, (..., D).
        log_var: log σ², (..., D).

    Examples:
        >>> import torch
        >>> q = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
        >>> z, log_q = q.rsample_and_log_prob((3,))
        >>> z.shape, torch.allclose(log_q, q.log_prob(z))
        (torch.Size([3, 4, 2]), True)
    """

    def __init__(self, loc: Float[Tensor, "*batch D"], log_var: Float[Tensor, "*batch D"]) -> None:
        self.loc, self.log_var = loc, log_var
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.log_var.exp()

    def rsample_terms(
        self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> FlowSample:
        return self.at_noise(standard_noise(self, sample_shape, self.loc, generator))

    def at_noise(self, eps: Tensor) -> FlowSample:
        z, log_base = draw(self.loc, self.log_var, eps)
        return FlowSample(z, log_base, torch.zeros_like(log_base))

    def at(self, eps: Tensor) -> Tensor:
        """μ + σ ⊙ ε."""
        return torch.addcmul(self.loc, (0.5 * self.log_var).exp(), eps)

    def standardize(self, value: Tensor) -> Tensor:
        """ε = (z - μ)/σ."""
        return (value - self.loc) * (-0.5 * self.log_var).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        eps = self.standardize(value)
        return -0.5 * (eps.square() + self.log_var + math.log(2 * math.pi)).sum(-1)

    def tensors(self) -> dict[str, Tensor]:
        return {"mu": self.loc, "log_var": self.log_var}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> DiagonalGaussian:
        return DiagonalGaussian(tensors["mu"], tensors["log_var"])

    def entropy(self) -> Tensor:
        return 0.5 * (self.log_var + math.log(2 * math.pi * math.e)).sum(-1)


class StandardGaussian(DiagonalGaussian):
    """N(0, I) on R^D, which needs no parameters to say log p(z).

    Args:
        zeros: (..., D), whose shape, dtype and device are the distribution's.
    """

    def __init__(self, zeros: Float[Tensor, "*batch D"]) -> None:
        super().__init__(zeros, zeros)

    def log_prob(self, value: Tensor) -> Tensor:
        return standard_log_prob(value)


class FullGaussian(LatentDistribution):
    """N(μ, L Lᵀ) on R^D with L = diag(σ) (I + N), N strictly lower triangular.

    log q(z) = -D/2 log 2π - Σ_d log σ_d - ½ ‖L⁻¹(z - μ)‖². σ_d is the standard deviation of z_d
    given z_1 … z_{d-1}, and N is free of units.

    Args:
        loc: μ, (..., D).
        log_var: log σ², (..., D).
        lower: N on and above its diagonal is ignored, (..., D, D).

    Examples:
        >>> import torch
        >>> q = FullGaussian(torch.zeros(4, 2), torch.zeros(4, 2), torch.ones(4, 2, 2))
        >>> q.covariance_matrix[0].tolist()
        [[1.0, 1.0], [1.0, 2.0]]
    """

    def __init__(
        self,
        loc: Float[Tensor, "*batch D"],
        log_var: Float[Tensor, "*batch D"],
        lower: Float[Tensor, "*batch D D"],
    ) -> None:
        self.loc, self.log_var, self.lower = loc, log_var, lower
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def scale_tril(self) -> Tensor:
        """L, (..., D, D)."""
        eye = torch.eye(self.loc.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        return (0.5 * self.log_var).exp().unsqueeze(-1) * (self.lower.tril(-1) + eye)

    @property
    def covariance_matrix(self) -> Tensor:
        return self.scale_tril @ self.scale_tril.mT

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale_tril.square().sum(-1)

    def rsample_terms(
        self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> FlowSample:
        return self.at_noise(standard_noise(self, sample_shape, self.loc, generator))

    def at_noise(self, eps: Tensor) -> FlowSample:
        log_base = standard_log_prob(eps) - 0.5 * self.log_var.sum(-1)
        turned = eps + matvec(self.lower.tril(-1), eps)
        z = self.loc + (0.5 * self.log_var).exp() * turned
        return FlowSample(z, log_base, torch.zeros_like(log_base))

    def tensors(self) -> dict[str, Tensor]:
        return {"mu": self.loc, "log_var": self.log_var, "lower": self.lower}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> FullGaussian:
        return FullGaussian(tensors["mu"], tensors["log_var"], tensors["lower"])

    def log_prob(self, value: Tensor) -> Tensor:
        refuse_if_portable("the density of a full Gaussian takes a triangular solution")
        turned = (value - self.loc) * (-0.5 * self.log_var).exp()
        lower = self.lower.expand(turned.shape + turned.shape[-1:])
        eps = torch.linalg.solve_triangular(
            lower, turned.unsqueeze(-1), upper=False, unitriangular=True
        ).squeeze(-1)
        return -0.5 * (eps.square() + self.log_var + math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        return 0.5 * (self.log_var + math.log(2 * math.pi * math.e)).sum(-1)

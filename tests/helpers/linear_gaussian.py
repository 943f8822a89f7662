"""A VAE whose p(x) and p(z|x) have closed forms: probabilistic PCA."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

import flowvae
from flowvae.likelihoods import (
    Gaussian,
)
from flowvae.posteriors import PlanarPosterior
from flowvae.priors import StandardNormal


class FixedGaussian(nn.Module):
    """p(x|z) = N(decoder(z), σ² I)."""

    support = (-math.inf, math.inf)
    outputs_per_dim = 1

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, mean: Tensor) -> Independent:
        return Independent(Normal(mean, self.scale, validate_args=False), 1, validate_args=False)


class LinearGaussian:
    """x = W z + c + σ ε, z ~ N(0, I): log p(x) and p(z|x) exactly, and models made of it.

    Args:
        D, P: dimensions of z and x.
        sigma: σ.
        seed: of W and c.
        diagonal: make p(z|x)'s covariance diagonal, so that the family of q holds it.
    """

    def __init__(
        self, D: int = 2, P: int = 5, sigma: float = 0.7, seed: int = 0, diagonal: bool = True
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        W = torch.randn(P, D, generator=generator, dtype=torch.float64)
        if diagonal:
            W = torch.linalg.qr(W).Q * torch.linspace(1.5, 0.8, D, dtype=torch.float64)
        self.W, self.sigma, self.D, self.P = W, sigma, D, P
        self.c = torch.randn(P, generator=generator, dtype=torch.float64)
        precision = torch.eye(D, dtype=torch.float64) + W.T @ W / sigma**2
        self.covariance = torch.linalg.inv(precision)
        self.gain = self.covariance @ W.T / sigma**2  # E[z|x] = gain (x - c)
        self.marginal = MultivariateNormal(
            self.c, W @ W.T + sigma**2 * torch.eye(P, dtype=torch.float64)
        )

    def data(self, count: int, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(count, self.D, generator=generator, dtype=torch.float64)
        noise = torch.randn(count, self.P, generator=generator, dtype=torch.float64)
        return z @ self.W.T + self.c + self.sigma * noise

    def posterior(self, x: Tensor) -> MultivariateNormal:
        return MultivariateNormal((x - self.c) @ self.gain.T, self.covariance)

    def model(self, shift: float = 0.0, widen: float = 1.0, K: int = 2) -> flowvae.VAE:
        """The VAE; q is off by ``shift`` in every mean and ``widen`` in every deviation.

        Its K flows are there, and the identity: u = 0 under the centred constraint.
        """
        head = PlanarPosterior(self.P, self.D, K, "centred").double()
        decoder = nn.Linear(self.D, self.P).double()
        with torch.no_grad():
            head.heads.weight.zero_()
            head.heads.bias.zero_()
            head.heads.weight[: self.D] = self.gain
            head.heads.bias[: self.D] = shift - self.gain @ self.c
            variance = self.covariance.diagonal() * widen**2
            head.heads.bias[self.D : 2 * self.D] = variance.log()
            if K:  # some direction, for the flows' gradients to be defined
                head.heads.bias[2 * self.D : 2 * self.D + K * self.D] = 0.5
            decoder.weight.copy_(self.W)
            decoder.bias.copy_(self.c)
        return flowvae.VAE(
            nn.Identity(),
            head,
            StandardNormal(self.D).double(),
            decoder,
            FixedGaussian(self.sigma),
            latent_dim=self.D,
            data_shape=(self.P,),
        ).eval()

    def kl(self, x: Tensor, shift: float, widen: float) -> Tensor:
        """KL(q ‖ p(z|x)) of :meth:`model`'s q where p(z|x) is diagonal."""
        del x
        variance = self.covariance.diagonal()
        return 0.5 * (widen**2 - 1 - 2 * math.log(widen) + shift**2 / variance).sum()


def linear_model(truth: LinearGaussian, **settings) -> flowvae.VAE:
    """The same model with a likelihood of ours, which draws by a generator."""
    model = truth.model(**settings)
    model.likelihood = Gaussian(truth.sigma)
    return model

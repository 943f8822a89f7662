"""A VAE with a condition and with gaps whose p(x_observed | y) and p(z|x, y) have closed forms."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import flowvae
from flowvae.data import Column
from flowvae.distributions import FullGaussian
from flowvae.likelihoods import Gaussian
from flowvae.priors import NormalPrior


class ConditionalGaussian:
    """x = W z + V y + c + σ ε,  z ~ N(A y, I): numbers y of C dimensions, float64.

    Args:
        D, P, C: dimensions of z, x and y.
        sigma: σ.
        seed: of the parameters.
    """

    def __init__(self, D: int = 2, P: int = 5, C: int = 3, sigma: float = 0.7, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.W, self.V, self.c, self.A = drawn(P, D), drawn(P, C), drawn(P), drawn(D, C)
        self.D, self.P, self.C, self.sigma = D, P, C, sigma

    def columns(self, classes: bool = False) -> list[Column]:
        """C numbers, or one of C classes."""
        if classes:
            return [Column("label", "categorical", tuple("abcdefgh"[: self.C]))]
        return [Column(f"y_{k + 1}", "numeric") for k in range(self.C)]

    def log_prob_of_classes(self, x: Tensor) -> Tensor:
        """Log p(x_observed | y) of every class y, (N, C)."""
        every = torch.eye(self.C, dtype=torch.float64)
        return torch.stack([self.log_prob(x, y.expand(len(x), -1)) for y in every], 1)

    def data(self, count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
        """x (N, P) and y (N, C)."""
        generator = torch.Generator().manual_seed(seed)
        y, z, noise = (
            torch.randn(count, size, generator=generator, dtype=torch.float64)
            for size in (self.C, self.D, self.P)
        )
        z = z + y @ self.A.T
        return z @ self.W.T + y @ self.V.T + self.c + self.sigma * noise, y

    def marginal(self, y: Tensor) -> MultivariateNormal:
        """p(x|y), batch (N,)."""
        mean = y @ (self.V + self.W @ self.A).T + self.c
        eye = torch.eye(self.P, dtype=torch.float64)
        return MultivariateNormal(mean, self.W @ self.W.T + self.sigma**2 * eye)

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Log p(x_observed | y), (N,); NaN in x is missing."""
        p, found = self.marginal(y), []
        for row, mean in zip(x, p.loc, strict=True):
            there = ~row.isnan()
            if not there.any():
                found.append(row.new_zeros(()))
                continue
            own = MultivariateNormal(mean[there], p.covariance_matrix[0][there][:, there])
            found.append(own.log_prob(row[there]))
        return torch.stack(found)

    def missing(self, x: Tensor, y: Tensor) -> list[MultivariateNormal]:
        """p(x_missing | x_observed, y) of every row that has a gap."""
        p, found = self.marginal(y), []
        for row, mean in zip(x, p.loc, strict=True):
            gap = row.isnan()
            if not gap.any():
                continue
            S = p.covariance_matrix[0]
            gain = S[gap][:, ~gap] @ torch.linalg.inv(S[~gap][:, ~gap])
            loc = mean[gap] + gain @ (row[~gap] - mean[~gap])
            found.append(MultivariateNormal(loc, S[gap][:, gap] - gain @ S[~gap][:, gap]))
        return found

    def model(self, shift: float = 0.0, widen: float = 1.0, classes: bool = False) -> flowvae.VAE:
        """The VAE; q is p(z|x_observed, y) itself, off by ``shift`` and ``widen``.

        With ``classes`` it has a classifier, too, which is p(y|x_observed) at equal classes.
        """
        decoder = nn.Linear(self.D + self.C, self.P).double()
        prior = NormalPrior(self.D, self.C).double()
        with torch.no_grad():
            decoder.weight.copy_(torch.cat([self.W, self.V], 1))
            decoder.bias.copy_(self.c)
            assert prior.slope is not None
            prior.slope[:, : self.D] = self.A.T
        return flowvae.VAE(
            nn.Identity(),
            _Exact(self, shift, widen),
            prior,
            decoder,
            Gaussian(self.sigma).double(),
            latent_dim=self.D,
            data_shape=(self.P,),
            condition=self.columns(classes),
            missing=True,
            classifier=_Bayes(self) if classes else None,
        ).eval()


class _Bayes(nn.Module):
    """Values (N, P) -> log p(x_observed | y), which are logits of p(y|x_observed)."""

    def __init__(self, truth: ConditionalGaussian) -> None:
        super().__init__()
        self.truth, self.heat = truth, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        return self.heat * self.truth.log_prob_of_classes(values)


class _Exact(nn.Module):
    """Rows (..., P + C) -> p(z | x_observed, y), moved and widened."""

    def __init__(self, truth: ConditionalGaussian, shift: float, widen: float) -> None:
        super().__init__()
        self.truth, self.shift, self.widen = truth, shift, widen

    def forward(self, rows: Tensor) -> FullGaussian:
        t = self.truth
        x, y = rows.split([t.P, t.C], -1)
        there = (~x.isnan()).to(x.dtype)
        weighted = there.unsqueeze(-1) * t.W / t.sigma**2  # (..., P, D)
        precision = torch.eye(t.D, dtype=x.dtype) + t.W.T @ weighted
        residual = (x - y @ t.V.T - t.c).nan_to_num(0.0)
        prior = y @ t.A.T
        right = prior + (weighted.mT @ residual.unsqueeze(-1)).squeeze(-1)
        covariance = torch.linalg.inv(precision)
        loc = (covariance @ right.unsqueeze(-1)).squeeze(-1) + self.shift
        root = torch.linalg.cholesky(covariance) * self.widen
        deviation = root.diagonal(dim1=-2, dim2=-1)
        return FullGaussian(loc, 2 * deviation.log(), root / deviation.unsqueeze(-1))


def kl_of(truth: ConditionalGaussian, rows: Tensor, shift: float, widen: float) -> Tensor:
    """KL(q ‖ p(z|x, y)) of :meth:`ConditionalGaussian.model`'s q, (N,)."""
    exact = _Exact(truth, 0.0, 1.0)(rows)
    move = torch.full((len(rows), truth.D, 1), shift, dtype=rows.dtype)
    away = torch.linalg.solve_triangular(exact.scale_tril, move, upper=False).square().sum((1, 2))
    return 0.5 * (truth.D * (widen**2 - 1 - 2 * math.log(widen)) + away)

"""Why a value is missing, where that depends on the value itself: not missing at random."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid

from flowvae.data.columns import Column, encoded_slices
from flowvae.likelihoods import ValueDistribution
from flowvae.likelihoods.real import NODES

__all__ = ["SelfMasking"]

# Adam moves every parameter by about its rate in a step, which suits weights of networks. Logits
# have further to go, and a table of some hundred rows gives few steps.
_PER_STEP = 20.0


class SelfMasking(nn.Module):
    """p(x_j is missing | x_j) = σ(a_j + b_j x_j), learned for every value.

    Let s say which values of a datum are there. What is maximised is then a bound on

        log p(x_obs, s) = log ∫ p(z) p(x_obs|z) Π_obs (1 - σ(a_j + b_j x_j))
                                Π_mis E_p(x_j|z)[σ(a_j + b_j x_j)] dz.

    not-MIWAE draws what is missing from p(x|z) to estimate the expectations. Values are independent
    given z, and what makes one missing is that value alone, so here each is computed: of a
    Bernoulli or a category it is a sum, of a Gaussian an integral over one number.

    At b = 0 values are missing at random, and log p(x_obs, s) = log p(x_obs) + log p(s).

    Args:
        data_dim: P.
        columns: of a table; a category is missing as a whole, and has one b for each category.

    Source: "not-MIWAE: Deep Generative Modelling with Missing not at Random Data", arXiv
    2006.12871; the model is its "self-masking".

    Examples:
        >>> from flowvae.likelihoods import Gaussian
        >>> missingness = SelfMasking(2)
        >>> p = Gaussian(sigma=1.0)(torch.zeros(3, 2))
        >>> missingness.log_prob(p, torch.tensor([[0.5, torch.nan]]).expand(3, 2))  # 2 log ½ each
        tensor([-1.3863, -1.3863, -1.3863], grad_fn=<SumBackward1>)
    """

    numbers_per_value = 2 * NODES  # held at once where an expectation is an integral
    first: Tensor
    owner: Tensor

    def __init__(self, data_dim: int, columns: Sequence[Column] | None = None) -> None:
        super().__init__()
        self.raw_offset = nn.Parameter(torch.zeros(data_dim))
        self.raw_slope = nn.Parameter(torch.zeros(data_dim))
        owner = torch.arange(data_dim)
        for place in () if columns is None else encoded_slices(columns):
            owner[place] = place.start
        # A category is there or missing as a whole, and counts once: at its first number.
        self.register_buffer("owner", owner, persistent=False)
        self.register_buffer("first", owner == torch.arange(data_dim), persistent=False)

    @property
    def offset(self) -> Tensor:
        """a_j, (P,); those of a category are its column's first, and the others are not used."""
        return _PER_STEP * self.raw_offset

    @property
    def slope(self) -> Tensor:
        """b_j, (P,)."""
        return _PER_STEP * self.raw_slope

    def log_prob(self, p: Distribution, values: Float[Tensor, "*#batch P"]) -> Tensor:
        """Log p(s|x_obs, z) for p = p(x|z), of values with NaN where one is missing: (*batch).

        Raises:
            TypeError: the likelihood is none whose expectations are known.
        """
        return self.at(p, values)[0]

    def at(
        self, p: Distribution, values: Float[Tensor, "*#batch P"]
    ) -> tuple[Tensor, ValueDistribution]:
        """:meth:`log_prob` and :meth:`given_missing`, their integrals computed once."""
        there = ~values.isnan()
        log_missing, given_missing = self._where_missing(p)
        log_there = logsigmoid(-self._logits(torch.where(there, values, 0.0)))
        each = torch.where(there, log_there, log_missing)
        return torch.where(self.first, each, 0.0).sum(-1), given_missing

    def pairs(self, p: Distribution, values: Float[Tensor, "B P"]) -> Float[Tensor, "B G"]:
        """:meth:`log_prob` of every datum under each of G distributions, by a matrix product."""
        there = ~values.isnan()
        log_missing, _ = self._where_missing(p)
        log_there = logsigmoid(-self._logits(torch.where(there, values, 0.0)))
        of_values = torch.where(self.first & there, log_there, 0.0).sum(-1)
        gone = (self.first & ~there).to(log_missing.dtype)
        return of_values[:, None] + gone @ log_missing.mT

    def given_missing(self, p: Distribution) -> ValueDistribution:
        """p(x_j|z, j is missing) of each value, of which mean and draws are had."""
        return self._where_missing(p)[1]

    @torch.no_grad()
    def draw(
        self, x: Float[Tensor, "*batch P"], generator: torch.Generator | None = None
    ) -> Bool[Tensor, "*batch P"]:
        """Which values of data that is all there would be missing."""
        u = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return (u < self._logits(x).sigmoid())[..., self.owner]

    def _logits(self, x: Tensor) -> Tensor:
        """a_j + b_j x_j, (..., P); of a category, whose x is a one-hot code, at its first."""
        each = self.slope * x
        return self.offset + torch.zeros_like(each).index_add(-1, self.owner, each)

    def _where_missing(self, p: Distribution) -> tuple[Tensor, ValueDistribution]:
        if not isinstance(p, ValueDistribution):
            raise TypeError(
                "missingness: expected a distribution of independent values, got "
                f"{type(p).__name__}"
            )
        return p.tilted(self.offset[self.owner], self.slope)

"""What a likelihood is: a support, a number of outputs, and a distribution over x."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus

if TYPE_CHECKING:
    from flowvae.data import Dataset

__all__ = [
    "CATEGORIES",
    "COLUMNS",
    "COUNTS",
    "EIGHT_BIT",
    "REAL",
    "UNIT_INTERVAL",
    "Likelihood",
    "Measure",
    "Support",
    "ValueDistribution",
    "measure_of",
    "observed_log_prob",
]


Options = Mapping[str, Any]


@dataclass(frozen=True)
class Support:
    """Where the data of a likelihood lies.

    Args:
        name: in a word.
        description: for the message that refuses other data.
        contains: whether a data set lies there, under the likelihood's options.
        from_real: maps R there, smoothly, or to its convex hull; none where that is R.
    """

    name: str
    description: str
    contains: Callable[[Dataset, Options], bool]
    from_real: Callable[[Tensor], Tensor] | None = None


def _in_unit_interval(dataset: Dataset, options: Options) -> bool:
    del options
    return dataset.statistics.low >= 0 and dataset.statistics.high <= 1


def _eight_bit(dataset: Dataset, options: Options) -> bool:
    del options
    return dataset.statistics.eight_bit


def _counts(dataset: Dataset, options: Options) -> bool:
    del options
    return dataset.statistics.integer and dataset.statistics.low >= 0


def _categories(dataset: Dataset, options: Options) -> bool:
    return _counts(dataset, options) and dataset.statistics.high < options["num_categories"]


def _real(dataset: Dataset, options: Options) -> bool:
    del dataset, options  # what is loaded is finite
    return True


def _columns(dataset: Dataset, options: Options) -> bool:
    del options
    return dataset.columns is not None


UNIT_INTERVAL = Support(
    "unit_interval", "numbers in [0, 1], or uint8", _in_unit_interval, torch.sigmoid
)
EIGHT_BIT = Support("eight_bit", "8-bit values: uint8, or k/255", _eight_bit, torch.sigmoid)
COUNTS = Support("counts", "counts 0, 1, 2, … (in another type than uint8)", _counts, softplus)
CATEGORIES = Support(
    "categories", "whole numbers from 0 to num_categories - 1", _categories, softplus
)
REAL = Support("real", "numbers", _real)
COLUMNS = Support("columns", "a table with named columns", _columns)


# What log p(x) is the logarithm of; only figures of one kind can be compared.
Measure = Literal["density", "probability", "density and probability", "pseudo-likelihood"]


class Likelihood(nn.Module):
    """Decoder output (..., num_outputs(P)) -> a distribution over x, batch (...), event (P,).

    The decoder's output is ``outputs_per_dim`` blocks of P numbers, one after the other.
    """

    support: Support
    outputs_per_dim = 1
    measured: Measure = "density"
    # What the encoder sees instead of x, elementwise; none is x itself.
    encoder_input: Callable[[Tensor], Tensor] | None = None

    def measure(self, binary: bool) -> Measure:
        """What exp log p(x|z) is, on data of which every value is 0 or 1, or on other data."""
        del binary
        return self.measured

    def num_outputs(self, data_dim: int) -> int:
        """The numbers the decoder writes for a datum of P values."""
        return data_dim * self.outputs_per_dim

    def outputs_at_mean(self, mean: Tensor) -> Tensor | None:
        """Decoder outputs (P,) or more under which x has this mean; what is left starts at zero.

        None where a likelihood does not say.
        """
        del mean
        return None


def measure_of(likelihood: nn.Module, binary: bool) -> Measure:
    """What exp log p(x|z) is: the one place that says so. Unless a likelihood says, a density.

    A density has a unit: it changes with the scale of x, and has no bits. On grey pixels a
    Bernoulli likelihood is neither density nor probability.

    Args:
        likelihood: of a model.
        binary: whether every value of the data is 0 or 1.
    """
    return likelihood.measure(binary) if isinstance(likelihood, Likelihood) else "density"


class ValueDistribution(Distribution):
    """Independent values x_1 … x_P: a subclass writes their log-probabilities, means and draws.

    Args:
        shape: (..., P).
    """

    arg_constraints = {}  # pyright: ignore

    def __init__(self, shape: torch.Size) -> None:
        super().__init__(shape[:-1], shape[-1:], validate_args=False)

    def tensors(self) -> dict[str, Tensor]:
        """The parameters of p(x|z) by what they are, batch dimensions first; none if not said."""
        return {}

    def log_prob_values(self, value: Tensor) -> Tensor:
        """Log-probability, or log-density, of every value: (..., P), in nats."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_prob_values(value).sum(-1)

    def log_prob_pairs(self, value: Tensor) -> Tensor:
        """Log p of each of B values (B, P) under each of G distributions: (B, G), in nats."""
        found = value.new_empty(len(value), *self.batch_shape)
        for row, datum in zip(found, value, strict=True):
            row.copy_(self.log_prob(datum.expand(*self.batch_shape, -1)))
        return found

    def log_prob_pairs_observed(self, value: Tensor) -> Tensor:
        """The same over the values that are there, the others being NaN."""
        each = [observed_log_prob(self, datum.expand(*self.batch_shape, -1)) for datum in value]
        return torch.stack(each) if each else value.new_empty(0, *self.batch_shape)

    def tilted(self, offset: Tensor, slope: Tensor) -> tuple[Tensor, ValueDistribution]:
        """What each value is where it is missing with probability σ(a + b x), and how often it is.

        Args:
            offset: a of each value, (P,); of a one-hot code that of each category.
            slope: b of each.

        Returns:
            Log E[σ(a_j + b_j x_j)], (..., P), of a one-hot code at its first number and 0 at the
            others; and x_j of density p(x_j) σ(a_j + b_j x_j) / E[…], with mean and draws.

        Raises:
            TypeError: a distribution that does not have these.
        """
        del offset, slope
        raise TypeError(
            f"missingness: expected a likelihood that knows E[σ(a + b x)], such as gaussian, "
            f"bernoulli or mixed, got {type(self).__name__}"
        )

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """Draws of this shape, (*sample_shape, ..., P)."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        return self.draw(self._extended_shape(torch.Size(sample_shape)), generator)


def observed_log_prob(p: Distribution, value: Tensor) -> Tensor:
    """Log p(x|z) of the values that are there, the others being NaN: in nats, without P.

    The values are independent given z, so those that are missing drop out of the sum. They are
    replaced before anything is computed from them: NaN times zero would be NaN in the gradient.

    Raises:
        TypeError: the distribution is none of independent values.
    """
    if not isinstance(p, ValueDistribution):
        raise TypeError(
            f"likelihood: expected a distribution with log_prob_values where values are missing, "
            f"got {type(p).__name__}"
        )
    there = ~value.isnan()
    each = p.log_prob_values(torch.where(there, value, 0.0))  # 0 is in every support
    return torch.where(there, each, 0.0).sum(-1)


def uniform(shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """U(0, 1), never 0 or 1."""
    u = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
    eps = torch.finfo(like.dtype).eps
    return u.clamp(eps, 1 - eps)

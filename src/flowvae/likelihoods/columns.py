"""The likelihood of a table's rows: each column by its kind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from flowvae.data.columns import Column, encoded_slices, encoded_width
from flowvae.likelihoods.base import COLUMNS, Likelihood, Measure, ValueDistribution, uniform
from flowvae.likelihoods.bernoulli import Bernoulli
from flowvae.likelihoods.real import GaussianValues, floored

__all__ = ["MixedColumns"]


class MixedColumns(Likelihood):
    """Rows of a table: numeric columns Gaussian, binary ones Bernoulli, categorical ones one-hot.

    log p(x) = Σ_numeric log N(x; m, σ²) + Σ_binary log Bernoulli(x; l) + Σ_categ. log softmax(l)_c

    The decoder writes m and log σ for a numeric column, l for a binary one, and one logit for each
    category of a categorical one.

    Args:
        columns: of the table, in the order in which a row is encoded.

    Examples:
        >>> import torch
        >>> from flowvae.data.columns import Column
        >>> pet = Column("pet", "categorical", ("cat", "dog"))
        >>> p = MixedColumns([Column("age", "numeric"), pet])
        >>> x = torch.tensor([[0.5, 0.0, 1.0]])   # a standardised age, and a dog
        >>> p(torch.zeros(1, p.num_outputs(3))).log_prob(x).shape
        torch.Size([1])
    """

    support = COLUMNS
    numeric: Tensor
    binary: Tensor

    def __init__(self, columns: Sequence[Column] | None) -> None:
        if columns is None:
            raise ValueError("columns: expected those of a table, got none")
        super().__init__()
        places = encoded_slices(columns)
        starts: dict[str, list[int]] = {"numeric": [], "binary": []}
        self.categorical: list[slice] = []
        for column, place in zip(columns, places, strict=True):
            if column.kind == "categorical":
                self.categorical.append(place)
            else:
                starts[column.kind].append(place.start)
        self.width = encoded_width(columns)
        for kind, places_of_kind in starts.items():
            index = torch.tensor(places_of_kind, dtype=torch.long)
            self.register_buffer(kind, index, persistent=False)

    def measure(self, binary: bool) -> Measure:
        """A density over the numbers, a probability of the categories."""
        del binary
        if len(self.numeric) == 0:
            return "probability"
        return "density" if len(self.numeric) == self.width else "density and probability"

    def num_outputs(self, data_dim: int) -> int:
        if data_dim != self.width:
            raise ValueError(f"data_dim: expected the columns' {self.width}, got {data_dim}")
        return data_dim + len(self.numeric)

    def forward(self, outputs: Float[Tensor, "*batch N"]) -> ValueDistribution:
        return _Row(self, outputs[..., : self.width], outputs[..., self.width :])


class _Values(ValueDistribution):
    """Numeric values as they are given, binary ones and categories by logits."""

    def __init__(self, about: MixedColumns, numeric: ValueDistribution, outputs: Tensor) -> None:
        self.about, self.numeric, self.outputs = about, numeric, outputs
        super().__init__(outputs.shape)

    @property
    def mean(self) -> Tensor:
        """Means of numeric columns, probabilities of the others, (..., P)."""
        found = self.outputs.clone()
        found[..., self.about.numeric] = self.numeric.mean
        found[..., self.about.binary] = self.outputs[..., self.about.binary].sigmoid()
        for place in self.about.categorical:
            found[..., place] = self.outputs[..., place].softmax(-1)
        return found

    def draw(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        found = self.mean.expand(shape).clone()
        about = self.about
        numeric = shape[:-1] + torch.Size([len(about.numeric)])
        found[..., about.numeric] = self.numeric.draw(numeric, generator)
        u = uniform(shape, found, generator)
        binary = about.binary
        found[..., binary] = (u[..., binary] < found[..., binary]).to(found.dtype)
        for place in about.categorical:
            # The largest of l - log(-log u) is a draw from softmax(l).
            chosen = (self.outputs[..., place] - (-u[..., place].log()).log()).argmax(-1)
            found[..., place] = one_hot(chosen, place.stop - place.start).to(found.dtype)
        return found


class _Row(_Values):
    def __init__(self, about: MixedColumns, outputs: Tensor, log_sigma: Tensor) -> None:
        self.gaussian = GaussianValues(outputs[..., about.numeric], floored(log_sigma))
        super().__init__(about, self.gaussian, outputs)

    def tensors(self) -> dict[str, Tensor]:
        return {"outputs": self.outputs, "log_sigma": self.gaussian.log_sigma}

    def tilted(self, offset: Tensor, slope: Tensor) -> tuple[Tensor, ValueDistribution]:
        """Each column by its kind."""
        x, out = self.about, self.outputs
        found, new = torch.zeros_like(out), out.clone()
        found[..., x.numeric], numeric = self.gaussian.tilted(offset[x.numeric], slope[x.numeric])
        bits = Bernoulli()(out[..., x.binary])
        found[..., x.binary], bits = bits.tilted(offset[x.binary], slope[x.binary])
        new[..., x.binary] = bits.tensors()["logits"]
        for place in x.categorical:
            each = out[..., place].log_softmax(-1) + logsigmoid(offset[place] + slope[place])
            found[..., place.start] = each.logsumexp(-1)
            new[..., place] = each
        return found, _Values(x, numeric, new)

    def log_prob_values(self, value: Tensor) -> Tensor:
        """Of each encoded number, (..., P); those of a one-hot code are 0 but for its one."""
        x, out = self.about, self.outputs
        found = out.new_zeros(torch.broadcast_shapes(value.shape, out.shape))
        found[..., x.numeric] = self.gaussian.log_prob_values(value[..., x.numeric])
        logits, bits = out[..., x.binary], value[..., x.binary]
        found[..., x.binary] = bits * logits + logsigmoid(-logits)
        for place in x.categorical:
            found[..., place] = value[..., place] * out[..., place].log_softmax(-1)
        return found

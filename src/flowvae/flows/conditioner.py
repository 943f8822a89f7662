"""The networks inside neural flows: z and a context -> two numbers per coordinate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flowvae.flows.layered import LayeredFlow

__all__ = ["Conditioner", "NeuralFlow"]


class Conditioner(nn.Module):
    """h = elu(W z + V context + c), further layers, then an affine map to 2 D numbers.

    Args:
        dim: D.
        hidden_dims: widths of the hidden layers.
        autoregressive: mask the weights so that output i sees z_1 … z_{i-1} only, as MADE does
            (arXiv 1502.03509); units that see the context alone are among them, so that the first
            output has it too.
        scale: of the last layer's initial weights; small ones start a flow near the identity.
    """

    def __init__(
        self, dim: int, hidden_dims: Sequence[int], autoregressive: bool, scale: float = 1.0
    ) -> None:
        super().__init__()
        widths = [dim, *hidden_dims, 2 * dim]
        layers = [nn.Linear(i, o) for i, o in pairwise(widths)]
        with torch.no_grad():
            for parameter in layers[-1].parameters():
                parameter.mul_(scale)
        self.layers = nn.ModuleList(layers)
        masks: list[Tensor | None] = [None] * len(self.layers)
        if autoregressive:
            # A unit of degree g may see coordinates 1 … g; output i may see degrees below i.
            degrees = [torch.arange(1, dim + 1)]
            degrees += [torch.arange(width) * dim // width for width in hidden_dims]
            masks = [(o[:, None] >= i).float() for i, o in pairwise(degrees)]
            masks.append((degrees[0].repeat(2)[:, None] > degrees[-1]).float())
        for n, mask in enumerate(masks):
            self.register_buffer(f"mask_{n}", mask, persistent=False)

    def forward(
        self, z: Float[Tensor, "*#batch D"], context: Float[Tensor, "*#batch H"] | None
    ) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out D"]]:
        """The 2 D numbers; ``context`` is V context already, the width of the first layer."""
        h = z
        for n, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)  # noqa: S101 - for type checkers
            mask = getattr(self, f"mask_{n}")
            weight = layer.weight if mask is None else layer.weight * mask
            h = functional.linear(h, weight, layer.bias)
            if n == 0 and context is not None:
                h = h + context
            if n < len(self.layers) - 1:
                h = functional.elu(h)
        first, second = h.chunk(2, -1)
        return first, second


class NeuralFlow(LayeredFlow):
    """K layers whose parameters are networks of z and of a context.

    The contexts of all K networks are one matrix product, outside the loop over k.

    Args:
        dim: D ≥ 1.
        num_flows: K ≥ 0.
        hidden_dims: widths of each layer's network.
        context_dim: width of the context; 0 is none.
        autoregressive: see :class:`Conditioner`.
        scale: see :class:`Conditioner`.
    """

    def __init__(
        self,
        dim: int,
        num_flows: int,
        hidden_dims: Sequence[int],
        context_dim: int,
        autoregressive: bool,
        scale: float,
    ) -> None:
        super().__init__(num_flows)
        self.conditioners = nn.ModuleList(
            Conditioner(dim, hidden_dims, autoregressive, scale) for _ in range(num_flows)
        )
        self.context: nn.Linear | None = None
        if context_dim and num_flows:
            self.context = nn.Linear(context_dim, num_flows * hidden_dims[0], bias=False)

    def contexts(self, context: Tensor | None) -> Sequence[Tensor | None]:
        if self.context is None or context is None:
            return [None] * self.num_flows
        return self.context(context).chunk(self.num_flows, -1)

"""Neural spline flows (Durkan et al. 2019, arXiv 1906.04032), by zuko."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from flowvae.errors import UserError
from flowvae.flows.layered import LayeredFlow

__all__ = ["SplineFlow"]


class SplineFlow(LayeredFlow):
    """K coupling layers of monotonic rational-quadratic splines on [-5, 5]^D, the identity outside.

    Half of the coordinates go through splines that depend on the context alone, the other half
    through splines that depend on the first half as well; layers alternate.

    Args:
        dim: D ≥ 1.
        num_flows: K ≥ 0.
        hidden_dims: widths of each layer's network.
        context_dim: width of a context they are conditioned on; 0 is none.

    Raises:
        UserError: zuko is not installed.
    """

    def __init__(
        self, dim: int, num_flows: int, hidden_dims: Sequence[int] = (128,), context_dim: int = 0
    ) -> None:
        super().__init__(num_flows)
        try:
            from zuko.flows import NSF
        except ImportError:
            raise UserError(
                "posterior: spline needs zuko, which is not installed; "
                "pip install 'flowvae[spline]'"
            ) from None
        self.layers = nn.ModuleList()
        if num_flows:
            flow = NSF(
                dim, context_dim, transforms=num_flows, hidden_features=hidden_dims, passes=2
            )
            self.layers.extend(flow.transform.transforms)  # pyright: ignore

    def layer(self, k: int, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.layers[k](context).call_and_ladj(z)

    def inverse_layer(self, k: int, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.layers[k](context).inv.call_and_ladj(z)

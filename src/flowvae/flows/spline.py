"""Neural spline flows (Durkan et al. 2019, arXiv 1906.04032), by zuko."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from flowvae.errors import UserError

__all__ = ["SplineFlow"]


class SplineFlow(nn.Module):
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
        super().__init__()
        try:
            from zuko.flows import NSF
        except ImportError:
            raise UserError(
                "posterior: spline needs zuko, which is not installed; "
                "pip install 'flowvae[spline]'"
            ) from None
        self.num_flows = num_flows
        self.layers = nn.ModuleList()
        if num_flows:
            flow = NSF(
                dim, context_dim, transforms=num_flows, hidden_features=hidden_dims, passes=2
            )
            self.layers.extend(flow.transform.transforms)  # pyright: ignore

    def forward(
        self,
        z: Float[Tensor, "*#batch D"],
        context: Float[Tensor, "*#batch C"] | None = None,
        num_flows: int | None = None,
        inverted: bool = False,
    ) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
        """Push z through the first ``num_flows`` layers (all, if not given), or pull it back.

        Returns:
            The point, and the log-determinant of the map that was taken, in nats.
        """
        K = self.num_flows if num_flows is None else num_flows
        total = z.new_zeros(z.shape[:-1])
        for k in range(K - 1, -1, -1) if inverted else range(K):
            transform = self.layers[k](context)
            z, ladj = (transform.inv if inverted else transform).call_and_ladj(z)
            total = total + ladj
        return z, total

"""The first layer of a network: its input is data, and much of data is zeros."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvae.eager import HAS_NUMBA, fit_for_kernels

__all__ = ["DataLinear"]

_WORTH = 1 << 20  # B · P · H below which a product is a few microseconds
_DENSE = 0.3  # share of numbers that are not 0 from which on the product is faster
_LOOKED_AT = 8  # data
_NS_PER_PRODUCT = 0.06


class DataLinear(nn.Linear):
    """y = x Wᵀ + c, or max(0, y), of data x: where most numbers are 0 they are skipped.

    A digit of MNIST is four fifths zeros, a table's one-hot columns are nearly all zeros. On a CPU
    in float32 the product and the gradient of W then cost in proportion to what is not 0; with
    other data, elsewhere, and where a gradient for x is asked for, this is ``nn.Linear``. The
    weight has its usual shape, (out, in); in memory it lies column by column
    where there are kernels.

    A number that is 0 does not meet its weight: an infinite weight gives NaN in a product only.

    Args:
        in_features: P.
        out_features: H.
        rectified: give max(0, y).

    Examples:
        >>> import torch
        >>> layer = DataLinear(784, 500, rectified=True)
        >>> layer(torch.zeros(3, 784)).shape, layer.weight.shape
        (torch.Size([3, 500]), torch.Size([500, 784]))
    """

    def __init__(self, in_features: int, out_features: int, rectified: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.rectified = rectified
        if HAS_NUMBA:
            self.weight = nn.Parameter(self.weight.detach().t().contiguous().t())

    def forward(self, input: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch H"]:  # noqa: A002
        if self._skips_zeros(input):
            return _Affine.apply(input, self.weight, self.bias, self.rectified)
        y = super().forward(input)
        return y.relu() if self.rectified else y

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rectified={self.rectified}"

    def _skips_zeros(self, x: Tensor) -> bool:
        H, P = self.weight.shape
        if not (
            x.dtype == torch.float32
            and x.dim() == 2
            and x.is_contiguous()
            and not x.requires_grad
            and len(x) * P * H >= _WORTH
            and self.weight.stride() == (1, H)
            and not torch.is_autocast_enabled("cpu")
            and fit_for_kernels(x, self.weight)
            and _team().available()
            and H >= _sparse().STRIP
        ):
            return False
        # Some data stand for all: what is decided depends on x alone, so runs stay repeatable.
        step = -(-len(x) // _LOOKED_AT)
        return _sparse().share(x.data_ptr(), len(x), P, step) < _DENSE


@cache
def _sparse() -> ModuleType:
    # numba takes half a second to import: not before it is needed.
    from flowvae.kernels import sparse

    return sparse


@cache
def _team() -> ModuleType:
    from flowvae.kernels import team

    return team


class _Affine(torch.autograd.Function):
    """x Wᵀ + c, rectified or not, as one node: x (B, P), W (H, P) by columns, c (H)."""

    @staticmethod
    def forward(ctx, x, weight, bias, rectified):
        (B, P), H = x.shape, len(bias)
        h = x.new_empty(B, H)
        lists, ends, _ = _sparse().room(B, P, H)
        room = torch.empty(lists + ends, dtype=torch.int32)
        lists, ends = room.data_ptr(), room.data_ptr() + 4 * lists
        addresses = (x.data_ptr(), weight.data_ptr(), bias.data_ptr(), h.data_ptr())
        arguments = (*addresses, B, P, H, rectified, lists, ends)
        threads = _team().threads_for(B * P * H * _NS_PER_PRODUCT, H // _sparse().STRIP)
        _team().run(_sparse().forward, arguments, threads)
        ctx.rectified = rectified
        ctx.save_for_backward(x, h)
        return h

    @staticmethod
    def backward(ctx, h_bar):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, h = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            h_bar = h_bar * (h > 0) if ctx.rectified else h_bar
            return None, h_bar.t() @ x, h_bar.sum(0), None
        (B, P), H = x.shape, h.shape[1]
        h_bar = h_bar.contiguous()
        w_bar, c_bar = x.new_empty(P, H), x.new_empty(H)
        lists, _, kept = _sparse().room(B, P, H)
        room = torch.empty(lists + kept, dtype=torch.int32)
        lists, kept = room.data_ptr(), room.data_ptr() + 4 * lists
        addresses = (x.data_ptr(), h_bar.data_ptr(), h.data_ptr(), w_bar.data_ptr())
        arguments = (*addresses, c_bar.data_ptr(), B, P, H, ctx.rectified, lists, kept)
        threads = _team().threads_for(B * P * H * _NS_PER_PRODUCT, P)
        _team().run(_sparse().backward, arguments, threads)
        return None, w_bar.t(), c_bar, None

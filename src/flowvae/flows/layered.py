"""Flows whose layers are modules, with weights of their own, conditioned on a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvae.flows.bijection import Bijection

__all__ = ["LayeredFlow", "ModuleTransform"]


class LayeredFlow(nn.Module):
    """K invertible layers; called with a context, it gives their :class:`Bijection`.

    A subclass writes :meth:`layer` and :meth:`inverse_layer`.

    Args:
        num_flows: K ≥ 0.
    """

    def __init__(self, num_flows: int) -> None:
        super().__init__()
        self.num_flows = num_flows

    def forward(self, context: Float[Tensor, "*#batch C"] | None = None) -> ModuleTransform:
        """The flow at a context (..., C), or at none."""
        return ModuleTransform(self, context)

    def contexts(self, context: Tensor | None) -> Sequence[Tensor | None]:
        """What each layer is given of the context."""
        return [context] * self.num_flows

    def layer(self, k: int, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z_k and ladj_k from z_{k-1}."""
        raise NotImplementedError

    def inverse_layer(self, k: int, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z_{k-1} and -ladj_k from z_k."""
        raise NotImplementedError


class ModuleTransform(Bijection):
    """The layers of a :class:`LayeredFlow` at a context.

    Args:
        flow: the module.
        context: (..., C), or none.
    """

    def __init__(self, flow: LayeredFlow, context: Tensor | None = None) -> None:
        super().__init__()
        self._flow, self._context, self._num_flows = flow, context, flow.num_flows
        self._constants: dict[str, Tensor] | None = None  # the weights, where they are detached

    @property
    def num_flows(self) -> int:
        return self._num_flows

    def forward_and_ladj(
        self, z: Float[Tensor, "*#batch D"]
    ) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
        return self._through(z, inverted=False)

    def inverse_and_ladj(
        self, z_K: Float[Tensor, "*#batch D"]
    ) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
        return self._through(z_K, inverted=True)

    def first(self, k: int) -> ModuleTransform:
        twin = self.with_cache(self._cache_size)
        twin._num_flows = k
        return twin

    def tensors(self) -> dict[str, Tensor]:
        """The context, (..., C), if there is one."""
        return {} if self._context is None else {"context": self._context}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> ModuleTransform:
        twin = self.with_cache(self._cache_size)
        twin._context = tensors.get("context", self._context)
        return twin

    def detached(self) -> ModuleTransform:
        twin = self.with_cache(self._cache_size)
        twin._context = None if self._context is None else self._context.detach()
        weights = _Layers(self._flow).named_parameters()
        twin._constants = {name: weight.detach() for name, weight in weights}
        return twin

    def _through(self, z: Tensor, inverted: bool) -> tuple[Tensor, Tensor]:
        layers = _Layers(self._flow)
        arguments = (z, self._context, self.num_flows, inverted)
        if self._constants is None:
            return layers(*arguments)
        return torch.func.functional_call(layers, self._constants, arguments)


class _Layers(nn.Module):
    """One layer after the other, as a module whose weights can be replaced for a call."""

    def __init__(self, flow: LayeredFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(
        self, z: Tensor, context: Tensor | None, num_flows: int, inverted: bool
    ) -> tuple[Tensor, Tensor]:
        contexts, total = self.flow.contexts(context), z.new_zeros(z.shape[:-1])
        for k in range(num_flows - 1, -1, -1) if inverted else range(num_flows):
            layer = self.flow.inverse_layer if inverted else self.flow.layer
            z, ladj = layer(k, z, contexts[k])
            total = total + ladj
        return z, total

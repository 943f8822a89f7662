"""Adam for a CPU: one kernel for all parameters, without PyTorch's bookkeeping."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from flowvae.eager import fit_for_kernels

__all__ = ["LeanAdam", "in_memory_order"]

_MOMENTS = ("exp_avg", "exp_avg_sq")
_NOTHING = 1e-30


class LeanAdam(torch.optim.Adam):
    """``torch.optim.Adam(fused=True)`` for a CPU: its state, and its numbers but for rounding.

    PyTorch's step groups the parameters anew each time and counts for each of them apart, which at
    this model's size costs as much as the update itself. Here the lists are made once, and all
    parameters share one count; hooks that PyTorch would run around a step are not run. A step in
    which a parameter has no gradient is PyTorch's own.

    float32 is updated by :mod:`flowvae.kernels.adam`, which sets to 0 what ends below 1e-30: the
    weights of pixels that are always black decay until they are denormal, and so do their moments,
    and arithmetic with such numbers is slow.

    Source: "Adam: A Method for Stochastic Optimization", arXiv 1412.6980.

    Examples:
        >>> import torch
        >>> w = torch.ones(3, requires_grad=True)
        >>> adam = LeanAdam([w], lr=0.1)
        >>> w.square().sum().backward()
        >>> adam.step()
        >>> w.tolist()
        [0.9..., 0.9..., 0.9...]
    """

    def __init__(self, parameters: Iterable[Tensor], **settings: Any) -> None:
        super().__init__(parameters, fused=True, **settings)
        self._lists: tuple[list[Tensor], ...] = ()
        self._steps = 0
        self._by_kernel = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # The fused update goes through memory: what is saved elsewhere may lie in another order.
        for parameter, state in self.state.items():
            for name in _MOMENTS:
                state[name] = _as_its(parameter.detach(), state[name])
        self._untie()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        del closure
        (group,) = self.param_groups
        parameters: list[Tensor] = group["params"]
        gradients = [_as_its(p, p.grad) for p in parameters if p.grad is not None]
        if not self._lists:
            self._gather(parameters)
        if not self._lists or len(gradients) < len(parameters):
            self._untie()
            super().step()  # makes the state, and knows what to do without a gradient
            return
        means, squares, (count, *_) = self._lists
        count += 1
        self._steps += 1
        settings = [group[name] for name in ("lr", "betas", "eps", "weight_decay")]
        if self._by_kernel:
            lists = (parameters, gradients, means, squares)
            _update()(*lists, self._steps, *settings, _NOTHING)
            return
        rate, betas, eps, decay = settings
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            *([in_memory_order(x) for x in each] for each in (parameters, gradients)),
            *([in_memory_order(x) for x in each] for each in (means, squares)),
            [],
            [count] * len(parameters),
            lr=rate,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )

    # Or PyTorch wraps it, for hooks and for its profiler.
    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess]

    def _untie(self) -> None:
        """A count for each parameter again: PyTorch's step adds to all of them."""
        self._lists = ()
        for state in self.state.values():
            state["step"] = state["step"].clone()

    def _gather(self, parameters: list[Tensor]) -> None:
        states = [self.state[p] for p in parameters if p in self.state]
        if len(states) < len(parameters) or len({int(state["step"]) for state in states}) > 1:
            return  # some have been updated less often than others
        for state in states:
            state["step"] = states[0]["step"]
        self._steps = int(states[0]["step"])
        dense = all(in_memory_order(p).is_contiguous() for p in parameters)
        single = parameters[0].dtype == torch.float32
        self._by_kernel = dense and single and fit_for_kernels(*parameters)
        self._lists = (
            *([state[name] for state in states] for name in _MOMENTS),
            [state["step"] for state in states],
        )


def in_memory_order(x: Tensor) -> Tensor:
    """x as a contiguous view of the same numbers, where its memory has no holes."""
    if x.is_contiguous():
        return x
    return x.permute(sorted(range(x.dim()), key=lambda i: -x.stride(i)))


def _as_its(parameter: Tensor, x: Tensor) -> Tensor:
    """x in the order of the parameter's memory, which the update goes through."""
    same = x.stride() == parameter.stride()
    return x if same else torch.empty_like(parameter).copy_(x)


@cache
def _update() -> Callable[..., None]:
    # numba takes half a second to import: not before it is needed.
    from flowvae.kernels.adam import update

    return update

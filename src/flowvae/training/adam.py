"""Adam for a CPU: one kernel for all parameters, without PyTorch's bookkeeping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from flowvae.eager import fit_for_kernels

__all__ = ["LeanAdam"]

_MOMENTS = ("exp_avg", "exp_avg_sq")
_NOTHING = 1e-30


class LeanAdam(torch.optim.Adam):
    """``torch.optim.Adam(fused=True)`` for a CPU: its state, and its numbers but for rounding.

    PyTorch's step groups the parameters anew each time and counts for each of them apart, which at
    this model's size costs as much as the update itself, and it does not look whether the gradient
    is finite. Here the lists are made once, all parameters share one count, and the rest is
    :mod:`flowvae.kernels.adam`. That sets to 0 what ends below 1e-30: the weights of pixels that
    are always black decay until they are denormal, and so do their moments, and arithmetic with
    such numbers is slow. Hooks that PyTorch would run around a step are not run.

    A step in which a parameter has no gradient is PyTorch's own, and so is every step of parameters
    that are not float32 or without numba. Both updates go through memory, so a gradient whose
    numbers lie in another order than the parameter's is put into that order first.

    Args:
        parameters: as of ``torch.optim.Adam``.
        guarded: leave out an update whose gradient has no finite norm; :attr:`finite` says whether
            the last one had.
        **settings: as of ``torch.optim.Adam``.

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

    def __init__(
        self, parameters: Iterable[Tensor], guarded: bool = False, **settings: Any
    ) -> None:
        super().__init__(parameters, fused=True, **settings)
        self.guarded, self.finite = guarded, True
        self._lists: tuple[list[Tensor], ...] = ()
        self._steps = 0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # What was saved elsewhere may lie in another order of memory.
        for parameter, state in self.state.items():
            for name in _MOMENTS:
                state[name] = _as_its(parameter.detach(), state[name])
        self._untie()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        del closure
        self.finite = self._step()

    # Or PyTorch wraps it, for hooks and for its profiler.
    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess]

    def _step(self) -> bool:
        (group,) = self.param_groups
        parameters: list[Tensor] = group["params"]
        for p in parameters:
            if p.grad is not None and p.grad.stride() != p.stride():
                p.grad = _as_its(p, p.grad)
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not self._lists:
            self._gather(parameters)
        if not self._lists or len(gradients) < len(parameters):
            if self.guarded and not _is_finite(gradients):
                return False
            self._untie()
            super().step()  # makes the state, and knows what to do without a gradient
            return True
        means, squares, (count, *_) = self._lists
        settings = [group[name] for name in ("lr", "betas", "eps", "weight_decay")]
        lists = (parameters, gradients, means, squares)
        if not _update()(*lists, self._steps + 1, *settings, _NOTHING, self.guarded):
            return False
        self._steps += 1
        count += 1
        return True

    def _untie(self) -> None:
        """A count for each parameter again: PyTorch's step adds to all of them."""
        self._lists = ()
        for state in self.state.values():
            state["step"] = state["step"].clone()

    def _gather(self, parameters: list[Tensor]) -> None:
        """Make the lists, if the kernel can take the parameters and all have the same count."""
        states = [self.state[p] for p in parameters if p in self.state]
        fit = parameters[0].dtype == torch.float32 and fit_for_kernels(*parameters)
        if not fit or not all(_in_memory_order(p).is_contiguous() for p in parameters):
            return
        if len(states) < len(parameters) or len({int(state["step"]) for state in states}) > 1:
            return
        for state in states:
            state["step"] = states[0]["step"]
        self._steps = int(states[0]["step"])
        self._lists = tuple([state[name] for state in states] for name in (*_MOMENTS, "step"))


def _in_memory_order(x: Tensor) -> Tensor:
    """x as a contiguous view of the same numbers, where its memory has no holes."""
    if x.is_contiguous():
        return x
    return x.permute(sorted(range(x.dim()), key=lambda i: -x.stride(i)))


def _is_finite(gradients: Sequence[Tensor]) -> bool:
    """Whether their norm is: by products, which are sooner found."""
    rows = (_in_memory_order(g).reshape(-1) for g in gradients)
    return math.isfinite(sum((torch.dot(g, g) for g in rows), torch.zeros(())))


def _as_its(parameter: Tensor, x: Tensor) -> Tensor:
    """x in the order of the parameter's memory, which the update goes through."""
    same = x.stride() == parameter.stride()
    return x if same else torch.empty_like(parameter).copy_(x)


@cache
def _update() -> Callable[..., bool]:
    # numba takes half a second to import: not before it is needed.
    from flowvae.kernels.adam import update

    return update

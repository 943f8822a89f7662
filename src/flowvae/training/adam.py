"""PyTorch's fused Adam, called without its bookkeeping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["LeanAdam"]


class LeanAdam(torch.optim.Adam):
    """``torch.optim.Adam(fused=True)`` for a CPU: the same numbers, the same state.

    PyTorch's step groups the parameters anew each time and counts for each of them apart, which at
    this model's size costs as much as the update itself. Here the lists are made once, and all
    parameters share one count; hooks that PyTorch would run around a step are not run. A step in
    which a parameter has no gradient is PyTorch's own.

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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._untie()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        del closure
        (group,) = self.param_groups
        parameters: list[Tensor] = group["params"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not self._lists or len(gradients) < len(parameters):
            self._untie()
            super().step()  # makes the state, and knows what to do without a gradient
            self._gather(parameters)
            return
        means, squares, (count, *_) = self._lists
        count += 1
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            parameters,
            gradients,
            means,
            squares,
            [],
            [count] * len(parameters),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
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
        states = [self.state[p] for p in parameters]
        if not all(states) or len({int(state["step"]) for state in states}) > 1:
            return  # some have been updated less often than others
        for state in states:
            state["step"] = states[0]["step"]
        names = ("exp_avg", "exp_avg_sq", "step")
        self._lists = tuple([state[name] for state in states] for name in names)

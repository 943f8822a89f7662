"""Means of the ELBO's terms over an epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowvae.processes import is_first, summed
from flowvae.terms import ElboTerms

__all__ = ["RunningMeans"]

_AT_ONCE = 50


class RunningMeans:
    """Means of the terms over all data and samples, summed on the device, read once.

    Examples:
        >>> import torch
        >>> from flowvae.terms import ElboTerms
        >>> means = RunningMeans()
        >>> means.add(ElboTerms(*(torch.full((1, 10), x) for x in (-9.0, -3.0, -2.0, 0.5))))
        >>> means.read()["elbo"], means.read()["kl"]
        (-9.5, 0.5)
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        # Of each term, and how many data they are of.
        self._sums = torch.zeros(len(ElboTerms._fields) + 1, dtype=dtype, device=device)
        self._waiting: list[ElboTerms] = []
        self._gathered = False

    def reset(self) -> None:
        self._waiting.clear()
        self._sums.zero_()
        self._gathered = False

    def gather(self) -> None:
        """Make the means those of all processes' data; all must call it, and count no more in."""
        self._count_in()
        if not self._gathered:
            self._sums.copy_(summed(self._sums))
        self._gathered = True

    def add(self, terms: ElboTerms, valid: Tensor | None = None) -> None:
        """Count a batch in, unless ``valid``, a tensor on the device, is false."""
        if valid is not None:
            self._sums += torch.where(valid, self._of([terms]), 0.0)
            return
        self._waiting.append(terms)  # a few operations for many batches rather than for each
        if len(self._waiting) >= _AT_ONCE or terms.ladj.shape != self._waiting[0].ladj.shape:
            self._count_in()

    def _count_in(self) -> None:
        if self._waiting:
            *same, last = self._waiting
            odd = bool(same) and last.ladj.shape != same[0].ladj.shape
            for batches in [same, [last]] if odd else [self._waiting]:
                self._sums += self._of(batches)
            self._waiting.clear()

    def _of(self, batches: list[ElboTerms]) -> Tensor:
        """Sums of each term over the data, and the number of data."""
        values = torch.stack([torch.stack(terms) for terms in batches])
        n, _, S, B = values.shape
        sums = values.sum((0, 2, 3), dtype=self._sums.dtype) / S
        return torch.nn.functional.pad(sums, (0, 1), value=n * B)

    def read(self) -> dict[str, float]:
        """The means so far, by the names of :meth:`ElboTerms.means`. Waits for the device.

        Of several processes each has those of its own data, until :meth:`gather`.
        """
        self._count_in()
        *sums, count = self._sums.tolist()
        mean = ElboTerms(*(torch.tensor([[s / count if count else math.nan]]) for s in sums))
        return {name: value.item() for name, value in mean.means().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The sums over all processes, which must all call it."""
        self._count_in()
        return {"sums": self._sums.clone() if self._gathered else summed(self._sums).clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.reset()
        if is_first():
            self._sums.copy_(state["sums"])

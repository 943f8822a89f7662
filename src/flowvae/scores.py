"""How well probabilities of classes agree with the classes that data is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from flowvae.errors import UserError
from flowvae.evaluation import Estimate

__all__ = ["Scores", "scores"]


@dataclass(frozen=True)
class Scores:
    """How well probabilities p(y|x) agree with the classes that data is of.

    Args:
        accuracy: share of data whose most probable class is its own.
        log_prob: mean log p(y|x) of the own class, in nats.
        brier: mean over data of Σ_k (p(k|x) - [y = k])², between 0 and 2.
        calibration_error: Σ_b n_b / N |accuracy_b - confidence_b| over bins b of the largest
            probability, of equal width: the expected calibration error.
        bins: for each bin ``count``, ``confidence`` and ``accuracy``, both none where it is empty.
        confusion: (K, K) counts; rows are the own classes, columns the most probable ones.
    """

    accuracy: Estimate
    log_prob: Estimate
    brier: float
    calibration_error: float
    bins: list[dict[str, Any]]
    confusion: list[list[int]]

    def shown(self, digits: int = 4) -> dict[str, str]:
        """What a person reads: name -> figure."""
        return {
            "accuracy": self.accuracy.shown(digits),
            "log p(own class|x), nats": self.log_prob.shown(digits),
            "Brier score": f"{self.brier:.{digits}f}",
            "expected calibration error": f"{self.calibration_error:.{digits}f}",
        }

    def mistaken(self, classes: Sequence[str], most: int = 3) -> str:
        """The classes that are most often taken for another; empty where none is."""
        pairs = [
            (count, classes[own], classes[guess])
            for own, row in enumerate(self.confusion)
            for guess, count in enumerate(row)
            if own != guess and count
        ]
        pairs.sort(key=lambda pair: -pair[0])
        return ", ".join(f"{own} as {guess} ({count})" for count, own, guess in pairs[:most])


def scores(log_p: Float[Tensor, "N K"], labels: Int[Tensor, " N"], bins: int = 15) -> Scores:
    """Scores of log-probabilities log p(y|x) where y is known, see :class:`Scores`.

    Args:
        log_p: one row a datum, in nats.
        labels: own classes, 0 … K - 1.
        bins: of the largest probability.

    Raises:
        UserError: there is no datum, or there are no bins.

    Examples:
        >>> import torch
        >>> sure = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.2, 0.8]])
        >>> found = scores(sure.log(), torch.tensor([0, 0, 0, 1, 1]))
        >>> round(found.accuracy.mean, 6), round(found.calibration_error, 6), found.confusion
        (0.8, 0.0, [[3, 0], [1, 1]])
    """
    N, K = log_p.shape
    if not N:
        raise UserError("labels: expected at least one datum whose class is known")
    if bins < 1:
        raise UserError(f"bins: expected at least 1, got {bins}")
    log_p, labels = log_p.double(), labels.long()
    p, own = log_p.exp(), one_hot(labels, K).double()
    confidence, guess = p.max(1)
    right = (guess == labels).double()
    # A bin holds its upper edge, as 1 is one.
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    table, error = [], 0.0
    for b in range(bins):
        inside = place == b
        count = int(inside.sum())
        mean = [value[inside].mean().item() if count else None for value in (confidence, right)]
        table.append({"count": count, "confidence": mean[0], "accuracy": mean[1]})
        error += abs((confidence - right)[inside].sum().item()) / N
    confusion = (labels * K + guess).bincount(minlength=K * K).reshape(K, K)
    return Scores(
        Estimate.of(right),
        Estimate.of(log_p.gather(1, labels[:, None])[:, 0]),
        (p - own).square().sum(1).mean().item(),
        error,
        table,
        confusion.tolist(),
    )

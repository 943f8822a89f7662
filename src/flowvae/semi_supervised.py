"""Learning from data of which a part alone has labels: the model M2.

With classes y = 1 … K, a classifier q(y|x) beside q(z|x, y), and p(y) = 1/K,

    L(x, y) = E_q(z|x,y)[log p(x|z, y) + log p(z|y) - log q(z|x, y)] + log p(y)  ≤  log p(x, y)
    U(x)    = Σ_y q(y|x) (L(x, y) - log q(y|x))                                  ≤  log p(x)

the sum over y exact. A datum with a label gives L and α log q(y|x), one without gives U.

Source: "Semi-supervised Learning with Deep Generative Models", arXiv 1406.5298.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from flowvae.config.options import PositiveInt
from flowvae.data import Split
from flowvae.data.conditions import class_numbers, class_rows, classes_of
from flowvae.errors import UserError
from flowvae.networks.inputs import pairs
from flowvae.objectives import Objective, Warmup, seen_of
from flowvae.processes import batch_mean, noise_of_batch, summed
from flowvae.terms import ElboTerms
from flowvae.vae import VAE

__all__ = ["M2", "classifier_accuracy"]

_DATA_AT_ONCE = 2000


class M2(Objective):
    """L(x, y) + α log q(y|x) for data with a label, U(x) for data without: per datum, in nats.

    Args:
        samples: S ≥ 1 draws of z per datum and class.
        warmup: of the KL, or none.
        alpha: α, the weight of the classifier's log-probability of a label.
        labelled_batch: how many data with a label the batch has beside its own, so that q(y|x) sees
            few labels often. They do not count for L, whose weight is that of the data with a
            label among all: else the decoder would learn these few by heart.
        hold: updates in which q(y|x) learns from labels alone. Until the decoder knows the classes,
            log p(x|y) would lead the classifier astray.
        ramp: further updates over which the gradient that reaches q(y|x) through U grows from 0 to
            its full size.
        classifier_dropout: share of the values of x that q(y|x) does not see in training, drawn
            anew each time. A classifier that few labels have made sure of itself learns nothing
            from U, whose gradient vanishes where q(y|x) is 0 or 1; one that is less sure does.

    Raises:
        ValueError: a value out of range.

    Examples:
        >>> import torch, flowvae
        >>> from flowvae.data import Column
        >>> label = Column("label", "categorical", ("cat", "dog"))
        >>> config = flowvae.Config(objective="m2")
        >>> model = flowvae.build_vae(config, (6, 5), condition=[label])
        >>> known, unknown = torch.eye(2), torch.full((6, 2), torch.nan)
        >>> rows = torch.cat([torch.rand(8, 30), torch.cat([known, unknown])], 1)
        >>> loss, terms = M2()(model, rows)
        >>> loss.shape, terms.log_weight.shape
        (torch.Size([]), torch.Size([1, 8]))
    """

    path_gradient, importance_weighted, semi_supervised = False, False, True
    reported = ("labelled_elbo", "unlabelled_elbo", "classification", "accuracy")

    def __init__(
        self,
        samples: int = 1,
        warmup: Warmup | None = None,
        alpha: float = 10.0,
        labelled_batch: int = 0,
        hold: int = 0,
        ramp: int = 0,
        classifier_dropout: float = 0.0,
    ) -> None:
        super().__init__(samples, warmup=warmup)
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha: expected a finite number of at least 0, got {alpha}")
        if labelled_batch < 0:
            raise ValueError(f"labelled_batch: expected at least 0, got {labelled_batch}")
        self.alpha, self.labelled_batch = alpha, labelled_batch
        if not 0 <= classifier_dropout < 1:
            raise ValueError(
                f"classifier_dropout: expected a number in [0, 1), got {classifier_dropout}"
            )
        self.hold, self.ramp = hold, ramp
        self.classifier_dropout = classifier_dropout
        self.sums = torch.zeros(len(self.reported), 2)
        self._classes: tuple[Any, Tensor] | None = None

    @classmethod
    def build(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        steps_per_epoch: int,
        samples: PositiveInt = 1,
        alpha: Annotated[float, Field(ge=0)] = 10.0,
        labelled_batch: Annotated[int, Field(ge=0)] = 10,
        warmup_start: Annotated[float, Field(ge=0)] = 0.01,
        warmup_epochs: Annotated[float, Field(ge=0)] = 0.0,
        hold_epochs: Annotated[float, Field(ge=0)] = 5.0,
        ramp_epochs: Annotated[float, Field(ge=0)] = 5.0,
        classifier_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> M2:
        """From the options of a configuration.

        Args:
            steps_per_epoch: updates in an epoch.
            samples: S, draws of z per datum and class in training.
            alpha: weight of log q(y|x) at a known label.
            labelled_batch: labelled data that each batch has beside its own, for q(y|x).
            warmup_start: weight of the KL at the first step, from which it goes to 1. Above 1, z
                says little at first and the class much.
            warmup_epochs: how long that takes, in epochs; 0 is not at all.
            hold_epochs: epochs in which q(y|x) learns from labels alone.
            ramp_epochs: further epochs over which the gradient that reaches q(y|x) from data
                without a label grows to its full size.
            classifier_dropout: share of x's values that q(y|x) does not see in training.
        """
        warmup, hold, ramp = (
            math.ceil(epochs * steps_per_epoch)
            for epochs in (warmup_epochs, hold_epochs, ramp_epochs)
        )
        growing = Warmup("kl", warmup, warmup_start) if warmup else None
        return cls(samples, growing, alpha, labelled_batch, hold, ramp, classifier_dropout)

    def check(self, model: VAE) -> None:
        super().check(model)
        if model.classifier is None or classes_of(model.condition) is None:
            raise UserError("objective: m2 needs a model whose condition is one of some classes")

    def __call__(
        self,
        model: VAE,
        x: Tensor,
        generator: torch.Generator | None = None,
        step: int | Tensor = 0,
    ) -> tuple[Tensor, ElboTerms]:
        x = model.flatten(x)
        values, condition = model.parts(x)
        columns = model.condition
        if model.classifier is None or condition is None or columns is None:
            raise UserError("objective: m2 needs a model whose condition is one of some classes")
        number = class_numbers(columns, condition)
        known = (number >= 0).to(values.dtype)
        seen, _ = model.parts(seen_of(model, x, self.classifier_dropout, generator))
        logits = model.classifier(seen).log_softmax(-1)  # log q(y|x), (B, K)
        K = logits.shape[-1]
        label = one_hot(number.clamp(min=0), K).to(values.dtype) * known[:, None]
        guess = _dampened(logits, self._let_through(step))
        share = torch.where(known[:, None] > 0, label, guess.exp())

        terms = self._of_every_class(model, values, generator)  # (S, B, K) each

        def mean(term: Tensor) -> Tensor:
            return (share * term).sum(-1)

        entropy = -(1 - known) * (share * guess).sum(-1)
        found = ElboTerms(
            mean(terms.log_likelihood),
            mean(terms.log_prior) - math.log(K),
            mean(terms.log_base) - entropy,
            mean(terms.ladj),
        )
        fit, beta = found.log_likelihood, self._weights(step)[1]
        classified = (label * logits).sum(-1)  # log q(y|x) at the label, 0 without
        bound = self._weight_of_rows(known) * (fit - beta * found.kl)
        loss = -batch_mean(bound + self.alpha * classified)
        with torch.no_grad():
            right = known * (logits.argmax(-1) == number)
            elbo = found.log_weight.mean(0)
            self._report([known * elbo, (1 - known) * elbo, classified, right], known)
        return loss, ElboTerms(*(term.detach() for term in found))

    def _weight_of_rows(self, known: Tensor) -> Tensor:
        """1 without a label; with one, so that those beside the batch do not count, (B,)."""
        count = summed(known.sum())
        share = ((count - self.labelled_batch) / count.clamp(min=1)).clamp(min=0)
        return torch.where(known > 0, share, 1.0)

    def _let_through(self, step: int | Tensor) -> float | Tensor:
        """The share of the gradient from data without a label that reaches the classifier."""
        beyond = step - self.hold
        if isinstance(beyond, Tensor):  # not read: a captured CUDA graph replays it
            return (beyond / max(self.ramp, 1)).clamp(0, 1) if self.ramp else (beyond >= 0).float()
        return min(1.0, max(0.0, beyond / self.ramp)) if self.ramp else float(beyond >= 0)

    def _of_every_class(
        self, model: VAE, values: Tensor, generator: torch.Generator | None
    ) -> ElboTerms:
        """The terms under each class: (S, B, K)."""
        every = self._rows_of_classes(model, values)
        B, K = len(values), len(every)
        rows = pairs(values, every)
        q = model.posteriors(values, every)
        eps = _noise(self.samples, values, model.latent_dim, generator)
        sample = q.at_noise(eps[:, :, None].expand(-1, -1, K, -1).flatten(1, 2))
        return ElboTerms(*(term.unflatten(1, (B, K)) for term in model.terms_at(rows, sample)))

    def _rows_of_classes(self, model: VAE, like: Tensor) -> Tensor:
        """Made once: a CUDA graph cannot record a copy from the CPU."""
        of = (model.condition, like.device, like.dtype)
        if self._classes is None or self._classes[0] != of:
            self._classes = of, class_rows(model.condition or ()).to(like)
        return self._classes[1]

    def _report(self, values: list[Tensor], known: Tensor) -> None:
        """Add to the epoch's sums: two of the four are of data with a label, and so is the last."""
        counts = [known.sum(), (1 - known).sum(), known.sum(), known.sum()]
        pairs = zip(values, counts, strict=True)
        assert self.sums is not None  # noqa: S101 - for type checkers
        self.sums += torch.stack([torch.stack([v.sum(), c]) for v, c in pairs]).to(self.sums)


def _noise(
    samples: int, values: Tensor, latent_dim: int, generator: torch.Generator | None
) -> Tensor:
    """ε ~ N(0, I), (S, B, D): one draw for all classes of a datum, whose differences matter."""
    options: Any = {"generator": generator, "dtype": values.dtype, "device": values.device}
    shape = torch.Size([samples, len(values), latent_dim])
    return noise_of_batch(shape, 1, lambda whole: torch.randn(whole, **options))


def _dampened(values: Tensor, weight: float | Tensor) -> Tensor:
    """The same, with a gradient of ``weight`` times its size."""
    return weight * values + (1 - weight) * values.detach()


@torch.no_grad()
def classifier_accuracy(model: VAE, split: Split) -> float:
    """The share of data with a label for which argmax_y q(y|x) is it; NaN where none has one.

    Args:
        model: with a classifier.
        split: with the condition that the model has.
    """
    if model.classifier is None or split.condition is None:
        raise ValueError("model: expected one with a classifier, and labels")
    columns, device = model.condition or (), next(model.parameters()).device
    right = count = 0
    training = model.training
    model.eval()  # dropout of one's own networks is for training
    for start in range(0, len(split), _DATA_AT_ONCE):
        place = slice(start, start + _DATA_AT_ONCE)
        number = class_numbers(columns, split.condition[place]).to(device)
        found = model.classifier(split.values(place).to(device)).argmax(-1)
        known = number >= 0
        right += int((known & (found == number)).sum())
        count += int(known.sum())
    model.train(training)
    return right / count if count else math.nan

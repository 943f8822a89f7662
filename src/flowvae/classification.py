"""Classification by Bayes' rule: which class y makes a datum x most probable.

    log p(x) = log Σ_y p(y) p(x|y),    p(y|x) = p(y) p(x|y) / p(x)

p(x|y) of a conditional model is estimated for every class by importance sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.data import Dataset, Split
from flowvae.data.conditions import class_numbers, class_rows, classes_of
from flowvae.errors import UserError, shown
from flowvae.evaluation.estimates import Estimate, ignore
from flowvae.files import write_json
from flowvae.progress import Progress
from flowvae.runs import RunLike, opened
from flowvae.scores import Scores, scores
from flowvae.vae import VAE

__all__ = [
    "Classification",
    "class_frequencies",
    "class_log_probs",
    "classify",
    "classify_split",
    "log_class_prior",
    "log_posterior",
]

_BATCH = 500


@dataclass(frozen=True)
class Classification:
    """What :func:`classify` found.

    Args:
        classes: their names, in the order of everything else.
        prior: p(y).
        samples: S, draws of z per datum and class.
        count: N, the number of data.
        labelled: of how many of them the class is known; scores are of these.
        seed: of the draws.
        data: name of what was classified.
        binarization: its policy.
        pseudo_likelihood: grey pixels under a Bernoulli likelihood.
        log_prob: log p(x), in nats per datum.
        log_prob_given_class: log p(x|y) at the own class; none where no class is known.
        bayes: how well p(y|x) by Bayes' rule does; likewise.
        classifier: how well q(y|x) does, where the model has a classifier.
        log_probs: log p(x|y) for every class, (N, K).
        probabilities: p(y|x), (N, K).
        labels: own classes, (N,); -1 where not known.
    """

    classes: tuple[str, ...]
    prior: tuple[float, ...]
    samples: int
    count: int
    labelled: int
    seed: int
    data: str
    binarization: str
    pseudo_likelihood: bool
    log_prob: Estimate
    log_prob_given_class: Estimate | None
    bayes: Scores | None
    classifier: Scores | None
    log_probs: Tensor = field(repr=False, compare=False)
    probabilities: Tensor = field(repr=False, compare=False)
    labels: Tensor = field(repr=False, compare=False)
    split: str = "test"
    unit: str = "nats per datum, mean and standard error over the data"

    def __str__(self) -> str:
        """A short table, as ``flowvae classify`` prints it."""
        lines = [
            f"{self.count:,} {self.split} data of {self.data}, binarization {self.binarization}, "
            f"{len(self.classes)} classes, {self.samples} "
            f"sample{'s' if self.samples > 1 else ''} of z per datum and class; mean ± standard "
            "error over the data"
        ]
        name = "pseudo-log p" if self.pseudo_likelihood else "log p"
        density = {f"{name}(x), nats": self.log_prob}
        if self.log_prob_given_class is not None:
            density[f"{name}(x|y) at the own class, nats"] = self.log_prob_given_class
        lines += [f"  {text:<40}{value.shown(3)}" for text, value in density.items()]
        if self.bayes is None:
            return "\n".join([*lines, "No datum's class is known, so there is nothing to score."])
        kinds = {"by Bayes' rule": self.bayes}
        if self.classifier is not None:
            kinds["by the classifier q(y|x)"] = self.classifier
        for text, found in kinds.items():
            lines.append(f"Classes {text}, of {self.labelled:,} data whose class is known")
            lines += [f"  {what:<40}{value}" for what, value in found.shown().items()]
            if mistaken := found.mistaken(self.classes):
                lines.append(f"  {'most often mistaken':<40}{mistaken}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain values, but for what there is one of for each datum."""
        found = {name: _plain(value) for name, value in vars(self).items()}
        return {name: value for name, value in found.items() if not isinstance(value, Tensor)}


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate | Scores):
        return {name: _plain(each) for name, each in vars(value).items()}
    return value


@torch.no_grad()
def class_log_probs(
    model: VAE, x: Tensor, samples: int = 50, generator: torch.Generator | None = None
) -> Float[Tensor, "B K"]:
    """The importance-weighted bound on log p(x|y) under every class y, in nats, float64.

    log 1/S Σ_s p(x, z_s|y) / q(z_s|x, y), z_s ~ q(z|x, y): see :meth:`VAE.iw_bound`. The encoder
    runs once for a class. A generator gives every class the same noise, so that errors which all
    classes share leave p(y|x) as it is.

    Args:
        model: conditional on one of K classes.
        x: values (B, P), or rows (B, P + C) whose condition is not looked at.
        samples: S ≥ 1 draws of z for each datum and class.
        generator: of the noise.

    Raises:
        UserError: the condition of the model is not one of some classes.

    Examples:
        >>> import torch, flowvae
        >>> from flowvae.data import Column
        >>> label = Column("label", "categorical", ("cat", "dog"))
        >>> model = flowvae.build_vae(flowvae.preset("original"), (6, 5), condition=[label])
        >>> found = class_log_probs(model, torch.rand(4, 30), samples=8)
        >>> found.shape, log_posterior(found).exp().sum(1).round(decimals=6).tolist()
        (torch.Size([4, 2]), [1.0, 1.0, 1.0, 1.0])
    """
    every = _classes(model)[1]
    values = _values(model, x)
    state = None if generator is None else generator.get_state()
    found = torch.empty(len(values), len(every), dtype=torch.float64, device=values.device)
    for k, each in enumerate(every.to(values)):
        if generator is not None and state is not None:
            generator.set_state(state)
        rows = torch.cat([values, each.expand(len(values), -1)], 1)
        found[:, k] = model.iw_bound(rows, samples, generator).double()
    return found


def log_posterior(
    log_probs: Float[Tensor, "*batch K"], prior: Sequence[float] | Tensor | None = None
) -> Float[Tensor, "*batch K"]:
    """Log p(y|x) by Bayes' rule from log p(x|y), (..., K), and p(y), (K,); uniform if not given.

    p(y) may be any positive numbers; they are divided by their sum.

    Raises:
        UserError: p(y) is not K positive numbers.

    Examples:
        >>> log_posterior(torch.tensor([0.0, 0.0]), [3, 1]).exp()
        tensor([0.7500, 0.2500])
    """
    return (log_probs + log_class_prior(prior, log_probs.shape[-1]).to(log_probs)).log_softmax(-1)


def log_class_prior(prior: Sequence[float] | Tensor | None, K: int) -> Float[Tensor, " K"]:
    """Log p(y) of any positive numbers, divided by their sum; uniform if there are none.

    Raises:
        UserError: they are not K positive numbers.
    """
    if prior is None:
        return torch.full((K,), -math.log(K), dtype=torch.float64)
    p = torch.as_tensor(prior, dtype=torch.float64)
    if p.shape != (K,) or not bool((p.isfinite() & (p > 0)).all()):
        raise UserError(f"prior: expected {K} positive numbers, one a class, got {shown(prior)}")
    return (p / p.sum()).log()


def class_frequencies(dataset: Dataset) -> list[float]:
    """The share of each class among the training data whose class is known, (K,).

    A class that training has not seen counts once.

    Raises:
        UserError: the condition of the data is not one of some classes.
    """
    columns, condition = dataset.condition, dataset.train.condition
    K = len(classes_of(columns) or ())
    if columns is None or condition is None or not K:
        raise UserError(f"condition: expected classes in the training data of {dataset.name}")
    number = class_numbers(columns, condition)
    counts = torch.bincount(number[number >= 0].cpu(), minlength=K).clamp(min=1).double()
    return (counts / counts.sum()).tolist()


@torch.no_grad()
def classify_split(
    model: VAE,
    split: Split,
    samples: int = 50,
    *,
    prior: Sequence[float] | None = None,
    seed: int = 0,
    data: str = "arrays",
    binarization: str = "none",
    pseudo_likelihood: bool = False,
    advance: Callable[[int], None] = ignore,
) -> Classification:
    """Classify a data split by Bayes' rule, and by q(y|x) where the model has a classifier.

    Args:
        model: conditional on one of K classes; it computes where its parameters are.
        split: the data, with its classes as condition where they are known.
        samples: S ≥ 1 draws of z for each datum and class.
        prior: p(y), (K,); uniform if not given.
        seed: of the draws.
        data: its name, recorded in the result.
        binarization: its policy, likewise.
        pseudo_likelihood: likewise.
        advance: called with the number of data done since the last call, times K.

    Raises:
        UserError: the condition of the model is not one of some classes, or p(y) is not K positive
            numbers.
    """
    classes, _ = _classes(model)
    K, N = len(classes), len(split)
    log_prior = log_class_prior(prior, K)
    parameter = next(model.parameters())
    generator = torch.Generator(parameter.device).manual_seed(seed)
    log_probs = torch.empty(N, K, dtype=torch.float64)
    classified = None if model.classifier is None else torch.empty(N, K, dtype=torch.float64)
    training = model.training
    model.eval()
    try:
        batch = min(_BATCH, model.draws_at_once())
        for start in range(0, N, batch):
            place = slice(start, start + batch)
            x = split.values(place).to(parameter)
            log_probs[place] = class_log_probs(model, x, samples, generator).cpu()
            if model.classifier is not None and classified is not None:
                classified[place] = model.classifier(x).cpu().double().log_softmax(-1)
            advance(len(x) * K)
    finally:
        model.train(training)
    labels = torch.full((N,), -1)
    if split.condition is not None and model.condition is not None:
        labels = class_numbers(model.condition, split.condition.cpu())
    known = labels >= 0
    found, own = log_posterior(log_probs, log_prior.exp()), labels[known]
    some = bool(known.any())
    return Classification(
        classes=classes,
        prior=tuple(log_prior.exp().tolist()),
        samples=samples,
        count=N,
        labelled=int(known.sum()),
        seed=seed,
        data=data,
        binarization=binarization,
        pseudo_likelihood=pseudo_likelihood,
        log_prob=Estimate.of((log_probs + log_prior).logsumexp(1)),
        log_prob_given_class=Estimate.of(log_probs[known].gather(1, own[:, None])[:, 0])
        if some
        else None,
        bayes=scores(found[known], own) if some else None,
        classifier=scores(classified[known], own) if some and classified is not None else None,
        log_probs=log_probs,
        probabilities=found.exp(),
        labels=labels,
    )


def classify(
    run: RunLike,
    samples: int = 50,
    *,
    count: int | None = None,
    prior: Literal["frequencies", "uniform"] | Sequence[float] = "frequencies",
    data: str | None = None,
    device: str = "auto",
    seed: int | None = None,
    progress: bool = True,
) -> Classification:
    """Classify a run's test data by Bayes' rule, and write ``classification.json``.

    p(y|x) ∝ p(y) p(x|y), with p(x|y) by importance sampling under every class. Where the run has a
    classifier q(y|x), of objective ``m2``, it is scored too.

    Args:
        run: a run, or its folder, whose condition is one of some classes.
        samples: S, draws of z for each datum and class.
        count: so many of the test data, evenly over it; all if not given.
        prior: p(y): ``"frequencies"`` of the classes in the run's training data, ``"uniform"``, or
            one positive number a class.
        data: other data of the same shape.
        device: where to compute, for a run given by its folder.
        seed: of the draws; the run's seed if not given.
        progress: show how far it is, and the time left.

    Raises:
        UserError: the run is not conditional, or not on classes; a value is out of range. Nothing
            has been written.

    Examples:
        >>> import flowvae, numpy as np
        >>> from flowvae.data import Dataset
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.random((300, 6, 5)), rng.integers(0, 3, 300)
        >>> dataset = Dataset.from_arrays(x[:200], x[200:], y[:200], y[200:])
        >>> run = flowvae.train(dataset=dataset, condition="labels", out=tmp_path / "run", epochs=1,
        ...                     finish=False, progress=False)
        >>> found = flowvae.classify(run, samples=8, progress=False)
        >>> found.classes, found.probabilities.shape
        (('0', '1', '2'), torch.Size([100, 3]))
    """
    for name, value in {"samples": samples, "count": count}.items():
        if value is not None and value < 1:
            raise UserError(f"{name}: expected at least 1, got {value}")
    own = opened(run, device)
    classes, _ = _classes(own.model)
    if isinstance(prior, str):
        if prior not in ("frequencies", "uniform"):
            raise UserError(f"prior: expected frequencies or uniform, got {shown(prior)}")
        p = None if prior == "uniform" else class_frequencies(own.dataset)
    else:
        p = prior
        log_class_prior(p, len(classes))
    given = opened(own, device, data)
    test = given.dataset.test
    test = test if count is None else test.at_most(count)
    total = len(test) * len(classes)
    with Progress.bar("classifying", total, enabled=progress) as advance:
        found = classify_split(
            given.model,
            test,
            samples,
            prior=p,
            seed=own.config.seed if seed is None else seed,
            data=given.dataset.name,
            binarization=given.dataset.binarization,
            pseudo_likelihood=given.pseudo_likelihood,
            advance=advance,
        )
    write_json(own.path / "classification.json", found.to_dict())
    return found


def _classes(model: VAE) -> tuple[tuple[str, ...], Tensor]:
    """The K classes, and their conditions (K, C)."""
    if model.condition is None:
        raise UserError("condition: expected classes, the model is not conditional")
    return classes_of(model.condition) or (), class_rows(model.condition)


def _values(model: VAE, x: Tensor) -> Tensor:
    """Data (B, P), from values in their shape or rows."""
    if model.is_rows(x):
        return model.parts(x)[0]
    if x.dim() > 1 and tuple(x.shape[1:]) == model.data_shape:
        return x.flatten(1)
    if x.dim() == 2 and x.shape[1] == model.data_dim:
        return x
    raise UserError(
        f"x: expected values (B, {model.data_dim}) or (B, {', '.join(map(str, model.data_shape))})"
        f", got {tuple(x.shape)}"
    )

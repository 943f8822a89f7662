"""The conditional model as a scikit-learn classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from flowvae.classification import log_posterior
from flowvae.data.conditions import class_rows
from flowvae.labelled_estimator import LabelledVAE
from flowvae.labels import known_labels
from flowvae.vae import VAE

try:
    from sklearn.base import ClassifierMixin
    from sklearn.metrics import accuracy_score
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_consistent_length, check_is_fitted
except ImportError as error:
    raise ImportError(
        "FlowVAEClassifier needs scikit-learn 1.6 or later; pip install 'flowvae[sklearn]'"
    ) from error

__all__ = ["FlowVAEClassifier"]


class FlowVAEClassifier(ClassifierMixin, LabelledVAE):
    """A conditional variational autoencoder p(x|y) as a classifier, by Bayes' rule.

    p(y|x) = p(y) p(x|y) / Σ_k p(k) p(x|k), with p(x|y) estimated under every class by importance
    sampling. Where rows of y have no label, the model M2 learns from them too (arXiv 1406.5298): it
    has a classifier q(y|x) besides, which then answers. The arguments of :class:`FlowVAE` mean
    what they mean there; like it, this gives the same for a row whichever rows it comes with.

    Args:
        posterior, prior, likelihood, network: families; a prior may depend on y.
        latent_dim: D, of what in x the class does not say.
        num_flows, hidden_dims: K and the widths of the hidden layers, q(y|x)'s too.
        epochs, batch_size, learning_rate, weight_decay, max_grad_norm: of training.
        standardize: bring every column to mean 0 and deviation 1 first.
        num_samples: S, draws of z ~ q(z|x, y) per row and class.
        refine: steps of optimization of q(z|x, y) for each row and class.
        missing: what NaN in X is, as of :class:`FlowVAE`.
        unlabelled: the value in y that marks a row without a label, such as -1 or NaN; rows whose y
            is None have none in any case.
        priors: p(y), one positive number a class in the order of ``classes_``; the frequencies of
            the labels if not given.
        predict_with: ``"bayes"``; ``"classifier"``, q(y|x), which there is where rows without a
            label were learned from; ``"auto"`` is the classifier where there is one.
        settings: further fields of :class:`flowvae.Config`, such as ``{"alpha": 1.0}``.
        warm_start, random_state, device, verbose: as of :class:`FlowVAE`.

    Attributes:
        classes_: the K classes, sorted.
        class_count_: rows of each in what was learned from, (K,).
        model_, config_, columns_, elbo_, n_features_in_: as of :class:`FlowVAE`.

    Examples:
        >>> import numpy as np
        >>> from flowvae import FlowVAEClassifier
        >>> rng = np.random.default_rng(0)
        >>> y = rng.choice(["cat", "dog"], 200)
        >>> X = rng.normal(np.where(y == "cat", 0.0, 4.0)[:, None], 1.0, (200, 3))
        >>> model = FlowVAEClassifier(num_flows=2, hidden_dims=(16,), epochs=50, random_state=0)
        >>> bool(model.fit(X, y).score(X, y) > 0.9), model.predict_proba(X).shape
        (True, (200, 2))
    """

    def __init__(
        self,
        posterior: str = "planar",
        prior: str = "standard_normal",
        likelihood: str = "gaussian",
        network: str = "mlp",
        *,
        latent_dim: int = 2,
        num_flows: int = 16,
        hidden_dims: Sequence[int] = (64,),
        epochs: int = 100,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-5,
        max_grad_norm: float | None = 50.0,
        standardize: bool | str = "auto",
        num_samples: int = 64,
        refine: int = 0,
        missing: str = "refuse",
        unlabelled: Any = None,
        priors: Sequence[float] | None = None,
        predict_with: Literal["auto", "bayes", "classifier"] = "auto",
        settings: dict[str, Any] | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        device: str = "auto",
        verbose: int = 0,
    ) -> None:
        super().__init__(
            posterior,
            prior,
            likelihood,
            network,
            latent_dim=latent_dim,
            num_flows=num_flows,
            hidden_dims=hidden_dims,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            standardize=standardize,
            num_samples=num_samples,
            refine=refine,
            missing=missing,
            settings=settings,
            warm_start=warm_start,
            random_state=random_state,
            device=device,
            verbose=verbose,
        )
        self.unlabelled = unlabelled
        self.priors = priors
        self.predict_with = predict_with

    def fit(self, X: Any, y: Any = None) -> FlowVAEClassifier:
        """Train from the start, or go on with ``warm_start``: ``epochs`` passes over X (N, P).

        Args:
            X: the rows.
            y: (N,), their classes; what ``unlabelled`` says marks a row that has none.

        Raises:
            ValueError: a parameter out of range, X outside the likelihood's support, fewer than two
                classes, or with ``warm_start`` a parameter that changed or a new class.
            TrainingError: the ELBO became NaN or infinite.
        """
        going_on = self.warm_start and hasattr(self, "model_")
        X, y, known = self._validated(X, y, reset=not going_on)
        if going_on:
            given = self._conditions(y, known)
            self.class_count_ = self._counts(y)
            self._go_on(X, given)
        else:
            self._begin_with(X, y, known, None)
        for _ in range(self.epochs):
            self._epoch(X)
        return self

    def partial_fit(self, X: Any, y: Any = None, classes: Any = None) -> FlowVAEClassifier:
        """One pass over X, going on from what was learned.

        The first call builds the model: for ``classes``, or those of its y if not given, and with a
        classifier q(y|x) if some of its rows have no label. Means and scales are those of its X.
        """
        first = not hasattr(self, "model_")
        X, y, known = self._validated(X, y, reset=first)
        if first:
            self._begin_with(X, y, known, classes)
        else:
            dataset = self._dataset(X, self._conditions(y, known))
            self._ready_trainer(dataset).feed(dataset.train)
            self.class_count_ = self.class_count_ + self._counts(y)
        self._epoch(X)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row, (N,)."""
        best = self.predict_log_proba(X).argmax(1)
        return self.classes_[best]

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(y|x) of each row and class, (N, K), in the order of ``classes_``."""
        return np.exp(self.predict_log_proba(X))

    @torch.no_grad()
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log p(y|x) of each row and class, (N, K), in nats."""
        model = self._inference_model()
        log_p = self._log_proba(model, X, None)
        return log_p.cpu().double().numpy()

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The share of rows whose class is found; rows without a label are left out."""
        check_is_fitted(self)
        labels, known = known_labels(y, self.unlabelled)
        guess = self.predict(X)
        if known.all():
            return float(accuracy_score(y, guess, sample_weight=sample_weight))
        check_consistent_length(guess, known)
        weight = None if sample_weight is None else np.asarray(sample_weight)[known]
        return float(accuracy_score(labels, guess[known], sample_weight=weight))

    @torch.no_grad()
    def score_samples(self, X: Any, y: Any = None) -> np.ndarray:
        """Log p(x) = log Σ_y p(y) p(x|y) of each row, (N,), in nats; log p(x|y) where y is given.

        Each p(x|y) is the importance-weighted bound of :meth:`FlowVAE.score_samples`, a density of
        x in its own units.
        """
        model = self._inference_model()
        if y is None:
            log_probs = self._log_probs(model, X)
            found = (log_probs + self._log_prior().to(log_probs)).logsumexp(1)
        else:
            found = self._over(model, X, self._own_conditions(X, y), _log_weights)
        return found.cpu().double().numpy() - self._log_volumes(self._checked(X, reset=False))

    @torch.no_grad()
    def transform(self, X: Any, y: Any = None) -> np.ndarray:
        """The mean of q(z|x, y) for each row, (N, D), by ``num_samples`` draws.

        Where y is not given, its mean over p(y|x): Σ_y p(y|x) E[z|x, y].
        """
        model = self._inference_model()
        return self._mean_over_classes(model, X, y, _mean_of_z).cpu().double().numpy()

    @torch.no_grad()
    def reconstruct(self, X: Any, y: Any = None) -> np.ndarray:
        """The mean of p(x|z, y) over z ~ q(z|x, y), (N, P), in X's units; as ``transform``."""
        model = self._inference_model()

        def decoded(x: Tensor, z: Tensor) -> Tensor:
            return model.decode(z, model.parts(x)[1]).mean.mean(0)

        return self._scaler.decode(self._mean_over_classes(model, X, y, decoded))

    @torch.no_grad()
    def inverse_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """The mean of p(x|z, y) at each row z of X (N, D): (N, P), in the units of the data.

        Where y is not given, its mean over p(y).
        """
        model = self._inference_model()
        z = self._latents(X).to(next(model.parameters()))
        if y is not None:
            rows = self._own_conditions(z, y).to(z)
            return self._scaler.decode(self._decoded(model, z, rows))
        prior = self._log_prior().exp().tolist()
        every = class_rows(self._columns()).to(z)
        means = [p * self._decoded(model, z, each) for p, each in zip(prior, every, strict=True)]
        return self._scaler.decode(torch.stack(means).sum(0))

    @torch.no_grad()
    def sample(self, n_samples: int = 1, random_state: Any = 0, y: Any = None) -> np.ndarray:
        """Draw x ~ p(x|z, y), z ~ p(z|y): (n_samples, P), in the units of the data.

        Args:
            n_samples: how many.
            random_state: an int, a ``RandomState`` or None.
            y: a class, or one for each; drawn from p(y) if not given.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples: expected at least 1, got {n_samples}")
        random = check_random_state(random_state)
        seed = int(random.randint(2**31 - 1))
        if y is None:
            p = self._log_prior().exp().numpy()
            given = class_rows(self._columns())[random.choice(len(p), n_samples, p=p / p.sum())]
        else:
            single = isinstance(y, str) or np.ndim(y) == 0
            given = self._own_conditions(range(n_samples), [y] * n_samples if single else y)
        generator = torch.Generator(next(self.model_.parameters()).device).manual_seed(seed)
        z, given = self.model_.draw_prior(n_samples, generator, given)
        at_once = self.model_.draws_at_once()
        parts = zip(z.split(at_once), given.split(at_once), strict=True)  # pyright: ignore
        return self._scaler.decode(
            torch.cat([self.model_.draw(part, generator, under) for part, under in parts])
        )

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", *, trust: bool = False) -> Any:
        """Read back what :meth:`FlowVAE.save` wrote of a classifier; as :meth:`FlowVAE.load`."""
        return super().load(path, device, trust=trust)

    def _over(
        self,
        model: VAE,
        X: Any,
        given: Tensor,
        reduce: Callable[[VAE, Tensor, Tensor, Tensor], Any],
    ) -> Any:
        """What is made of each chunk of rows, draws of z and their log-densities, joined."""
        parts = [reduce(model, *drawn) for drawn in self._draws(model, X, given)]
        return torch.cat(parts)

    def _log_probs(self, model: VAE, X: Any) -> Tensor:
        """log p(x|y) for every class, (N, K)."""
        every = class_rows(self._columns())
        return torch.stack([self._over(model, X, each, _log_weights) for each in every], 1)

    def _uses_classifier(self) -> bool:
        return self.model_.classifier is not None and self.predict_with != "bayes"

    def _log_proba(self, model: VAE, X: Any, log_probs: Tensor | None) -> Tensor:
        """log p(y|x), (N, K), by Bayes' rule from log p(x|y) or by q(y|x)."""
        if not self._uses_classifier():
            log_probs = self._log_probs(model, X) if log_probs is None else log_probs
            return log_posterior(log_probs, self._log_prior().exp())
        X = self._checked(X, reset=False)
        self._dataset(X)
        rows = self._scaler.encode(X, np.float64).to(next(model.parameters()))
        classifier: Any = model.classifier
        at_once = self.model_.draws_at_once()
        return torch.cat([classifier(part).log_softmax(-1) for part in rows.split(at_once)])

    def _mean_over_classes(
        self, model: VAE, X: Any, y: Any, mean: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """The mean over draws, under the class given, or weighted by p(y|x) over all of them."""
        if y is not None:
            given = self._own_conditions(X, y)
            return self._over(model, X, given, lambda _, x, z, __: mean(x, z))
        means, log_probs = [], []
        for each in class_rows(self._columns()):
            chunks = [
                (mean(x, z), _log_weights(model, x, z, log_q))
                for x, z, log_q in self._draws(model, X, each)
            ]
            means.append(torch.cat([chunk[0] for chunk in chunks]))
            log_probs.append(torch.cat([chunk[1] for chunk in chunks]))
        p = self._log_proba(model, X, torch.stack(log_probs, 1)).exp()
        return (p[..., None] * torch.stack(means, 1)).sum(1)

    def _decoded(self, model: VAE, z: Tensor, given: Tensor) -> Tensor:
        at_once = self.model_.draws_at_once()
        parts = zip(z.split(at_once), given.expand(len(z), -1).split(at_once), strict=True)
        return torch.cat([model.decode(part, under).mean for part, under in parts])


def _log_weights(model: VAE, x: Tensor, z: Tensor, log_q: Tensor) -> Tensor:
    """The bound on log p(x|y) of each row, (B,)."""
    return (model.log_joint(x, z) - log_q).logsumexp(0) - math.log(len(z))


def _mean_of_z(x: Tensor, z: Tensor) -> Tensor:
    del x
    return z.mean(0)

"""What an estimator with labels has beside :class:`FlowVAE`: conditions and classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)
from torch import Tensor

from flowvae.classification import log_class_prior
from flowvae.config import Config
from flowvae.data import Column
from flowvae.data.conditions import class_rows
from flowvae.errors import UserError
from flowvae.estimator import FlowVAE
from flowvae.estimator_settings import Saved, config_of
from flowvae.labels import known_labels, labels_from_json, labels_to_json
from flowvae.vae import VAE

__all__ = ["LabelledVAE"]


class LabelledVAE(FlowVAE):
    """The base of :class:`flowvae.FlowVAEClassifier`: labels become conditions of the model."""

    classes_: np.ndarray
    class_count_: np.ndarray
    unlabelled: Any
    priors: Any
    predict_with: str
    _semi_supervised: bool

    def _validated(
        self, X: Any, y: Any, *, reset: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """X (N, P), the labels there are, and which rows have one (N,)."""
        labels, known = known_labels(y, self.unlabelled)
        if y is None or known.all():  # of None scikit-learn says what it expects
            given: Any = y
            X, y = validate_data(self, X, given, reset=reset, **self._kinds())
            check_classification_targets(y)
            return X, y, np.ones(len(y), bool)
        X = self._checked(X, reset=reset)
        check_consistent_length(X, known)
        if not len(labels):
            raise ValueError("y: expected some rows with a label, got none")
        labels = column_or_1d(labels)
        check_classification_targets(labels)
        return X, labels, known

    def _draws(
        self, model: VAE, X: Any, given: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The same for rows X as they were given."""
        return super()._draws(model, self._checked(X, reset=False), given)

    def _begin_with(
        self, X: np.ndarray, labels: np.ndarray, known: np.ndarray, classes: Any
    ) -> None:
        self.classes_ = np.unique(labels if classes is None else np.asarray(classes))
        if len(self.classes_) < 2:
            raise ValueError("y: expected at least two classes, got one class")
        if self.predict_with not in ("auto", "bayes", "classifier"):
            raise ValueError(
                f"predict_with: expected auto, bayes or classifier, got {self.predict_with!r}"
            )
        wanted = (self.settings or {}).get("objective")
        self._semi_supervised = wanted == "m2" or not known.all()
        if self.predict_with == "classifier" and not self._semi_supervised:
            raise ValueError(
                "predict_with: expected rows without a label, or the setting objective=m2, beside "
                "'classifier'"
            )
        given = self._conditions(labels, known)
        self.class_count_ = self._counts(labels)
        self._log_prior()
        self._begin(X, given)

    @property
    def _condition(self) -> tuple[Column, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._columns()

    def _columns(self) -> tuple[Column, ...]:
        return (Column("label", "categorical", tuple(str(each) for each in self.classes_)),)

    def _configured(self) -> Config:
        settings = {"condition": ("labels",), **(self.settings or {})}
        if self._semi_supervised:
            settings["objective"] = "m2"
        return config_of({**self.get_params(), "settings": settings}, self._seed)

    def _numbers(self, labels: np.ndarray) -> np.ndarray:
        """Which class each label is of."""
        found = np.searchsorted(self.classes_, labels).clip(max=len(self.classes_) - 1)
        odd = self.classes_[found] != labels
        if odd.any():
            raise ValueError(
                f"y: expected one of the classes {', '.join(map(str, self.classes_[:20]))}, "
                f"got {labels[odd].tolist()[0]!r}"
            )
        return found

    def _conditions(self, labels: np.ndarray, known: np.ndarray) -> Tensor:
        """Conditions (N, K), NaN where there is no label."""
        if not (known.all() or self._semi_supervised):
            raise ValueError("y: expected a label for every row, as the first time, got gaps")
        found = torch.full((len(known), len(self.classes_)), torch.nan)
        found[torch.from_numpy(known)] = class_rows(self._columns())[self._numbers(labels)]
        return found

    def _counts(self, labels: np.ndarray) -> np.ndarray:
        return np.bincount(self._numbers(labels), minlength=len(self.classes_))

    def _own_conditions(self, X: Any, y: Any) -> Tensor:
        """The conditions of rows whose classes are given, one each."""
        check_is_fitted(self)
        labels = column_or_1d(np.asarray(y))
        check_consistent_length(X, labels)
        return class_rows(self._columns())[self._numbers(labels)]

    def _log_prior(self) -> Tensor:
        prior = self.class_count_.clip(min=1) if self.priors is None else self.priors
        return log_class_prior(torch.as_tensor(np.asarray(prior)), len(self.classes_))

    def _more_to_save(self) -> dict[str, Any]:
        about = {"labels": labels_to_json(self.classes_), "counts": self.class_count_.tolist()}
        return {"classes": {**about, "semi_supervised": self._semi_supervised}}

    def _restore(self, about: Saved) -> None:
        try:
            self.classes_ = labels_from_json(about.classes["labels"])
            self.class_count_ = np.array(about.classes["counts"], np.int64)
            self._semi_supervised = bool(about.classes["semi_supervised"])
            if len(self.class_count_) != len(self.classes_):
                raise ValueError("counts")
        except (TypeError, KeyError, ValueError, OverflowError):
            raise UserError("estimator: expected the classes of a classifier, got none") from None

"""The model as a scikit-learn imputer."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowvae.errors import UserError
from flowvae.imputation import Imputation

try:
    from sklearn.base import BaseEstimator, TransformerMixin, clone
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

    from flowvae.estimator import FlowVAE
except ImportError as error:
    raise ImportError(
        "FlowImputer needs scikit-learn 1.6 or later; pip install 'flowvae[sklearn]'"
    ) from error

__all__ = ["FlowImputer"]


class FlowImputer(TransformerMixin, BaseEstimator):
    """Fills in NaN in arrays X (N, P) of real numbers by a variational autoencoder.

    It learns from X with its gaps, and fills in E[x_mis | x_obs], see
    :func:`flowvae.imputation.impute`. It stands where ``SimpleImputer`` and ``IterativeImputer``
    of scikit-learn stand. A row's filling depends on no other row that is transformed with it.

    Args:
        estimator: a :class:`flowvae.FlowVAE` to learn with; its ``missing`` and ``random_state``
            are set. What is used if none is given suits tables of a few hundred rows or more.
        num_samples: S, draws of z per row to fill in by.
        sample_posterior: fill in a draw from p(x_mis | x_obs) in place of the mean. Several
            imputers of different ``random_state`` give multiple imputations.
        keep_empty_features: keep columns that had no value at all in ``fit``, filled with 0; else
            they are dropped, as ``SimpleImputer`` does.
        random_state: seed of everything: an int, a ``RandomState`` or None.

    Attributes:
        estimator_: the fitted :class:`flowvae.FlowVAE`, of the columns that have values.
        empty_: which columns had none, (P,).
        n_features_in_: P.

    Examples:
        >>> import numpy as np
        >>> from flowvae import FlowImputer, FlowVAE
        >>> X = np.random.default_rng(0).normal(size=(100, 1)) * [1.0, 2.0, 3.0]
        >>> X[::4, 1] = np.nan
        >>> imputer = FlowImputer(FlowVAE(epochs=5), random_state=0)
        >>> imputer.fit_transform(X).shape, imputer.impute(X, draws=5).draws.shape
        ((100, 3), (5, 100, 3))
    """

    n_features_in_: int

    def __init__(
        self,
        estimator: FlowVAE | None = None,
        *,
        num_samples: int = 500,
        sample_posterior: bool = False,
        keep_empty_features: bool = False,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.num_samples = num_samples
        self.sample_posterior = sample_posterior
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> FlowImputer:
        """Learn from X (N, P) with NaN where a value is missing; y is ignored.

        Raises:
            ValueError: X has no value at all, or an infinite one; see also
                :meth:`flowvae.FlowVAE.fit`.
        """
        del y
        X = self._checked(X, reset=True)
        self.empty_ = np.isnan(X).all(0)
        if self.empty_.all():
            raise UserError("X: expected a value in one column at least, got NaN alone")
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        chosen: Any = default_estimator() if self.estimator is None else clone(self.estimator)
        self.estimator_: FlowVAE = chosen.set_params(missing="model", random_state=self._seed)
        self.estimator_.fit(X[:, ~self.empty_])
        return self

    def transform(self, X: Any) -> np.ndarray:
        """X with its gaps filled, (N, P), or without columns that were empty in ``fit``."""
        if not self.sample_posterior:
            return self.impute(X).filled
        return self.impute(X, draws=1).draws[0]

    def impute(self, X: Any, *, draws: int = 0, interval: float | None = None) -> Imputation:
        """Means, and draws or intervals where they are asked for, in X's units.

        Args:
            X: (N, P).
            draws: M, how many imputations to draw from p(x_mis | x_obs).
            interval: share of the draws that lie in the intervals, such as 0.9.
        """
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        found = self.estimator_.impute(
            X[:, ~self.empty_],
            samples=self.num_samples,
            draws=draws,
            interval=interval,
            random_state=self._seed,
        )
        if not self.keep_empty_features or not self.empty_.any():
            return found

        def whole(part: np.ndarray | None) -> Any:
            if part is None:
                return None
            wide = np.zeros((*part.shape[:-1], X.shape[1]), part.dtype)
            wide[..., ~self.empty_] = part
            wide[..., self.empty_] = np.nan_to_num(X[:, self.empty_])
            return wide

        return Imputation(
            whole(found.filled),
            np.isnan(X),
            found.effective_samples,
            *map(whole, (found.draws, found.low, found.high)),
        )

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of log p(x_obs), in nats per row: higher is better. y is ignored.

        It needs no data without gaps, so it can choose parameters, as in ``GridSearchCV``. With
        missingness ``self_masking`` it is of log p(x_obs, s), which is not comparable with it.
        """
        del y
        check_is_fitted(self)
        return self.estimator_.score(self._checked(X, reset=False)[:, ~self.empty_])

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the columns that ``transform`` gives."""
        check_is_fitted(self)
        names: Any = _check_feature_names_in(self, input_features)
        return names if self.keep_empty_features else names[~self.empty_]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _checked(self, X: Any, reset: bool) -> np.ndarray:
        allowed: Any = {"dtype": [np.float64, np.float32], "ensure_all_finite": "allow-nan"}
        return np.asarray(validate_data(self, X, reset=reset, **allowed))


def default_estimator() -> FlowVAE:
    """What :class:`FlowImputer` learns with if it is told nothing, see docs/missing.md."""
    return FlowVAE(
        "full_gaussian",
        latent_dim=8,
        hidden_dims=(128,),
        epochs=300,
        batch_size=64,
        learning_rate=2e-3,
        weight_decay=1e-4,
        missing="model",
        settings={
            "objective": "iwae",
            "objective.samples": 20,
            "objective.encoder_dropout": 0.02,
            "averaging": 0.9,
        },
    )

"""What is beneath the scikit-learn front: training, data in standardised units, draws."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from flowvae.building import build_vae
from flowvae.config import Config
from flowvae.data import Dataset, Split
from flowvae.data.columns import Column
from flowvae.data.scaling import ColumnScaler
from flowvae.device import choose_device
from flowvae.estimator_settings import check_same, config_of, wants_scaling
from flowvae.evaluation.common_noise import common_draws
from flowvae.likelihoods.support import check_support
from flowvae.processes import first_decides, is_first
from flowvae.refined import RefinedVAE
from flowvae.training import Trainer
from flowvae.vae import VAE

__all__ = ["TrainedVAE"]


class TrainedVAE(BaseEstimator):
    """An estimator whose parameters are those of :class:`flowvae.FlowVAE`."""

    model_: VAE
    config_: Config
    columns_: tuple[Column, ...] | None
    elbo_: list[float]
    epochs: int
    likelihood: str
    missing: str
    num_samples: int
    random_state: Any
    refine: int
    standardize: bool | str
    verbose: int
    _condition: tuple[Column, ...] | None = None  # a subclass may have one
    _seed: int
    _trainer: Trainer

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        state = {key: value for key, value in state.items() if key != "_trainer"}
        if "model_" in state:  # readable where there is no such device
            state["model_"] = copy.deepcopy(state["model_"]).cpu()
        return state

    def _begin(self, X: np.ndarray, given: Tensor | None = None) -> None:
        """A new model and its trainer, for rows under conditions ``given`` (N, C), if any."""
        self._seed = first_decides(
            lambda: int(check_random_state(self.random_state).randint(2**31 - 1))
        )
        self.config_ = self._configured()
        if self.num_samples < 1:
            raise ValueError(f"num_samples: expected at least 1, got {self.num_samples}")
        if self.missing not in ("refuse", "model"):
            raise ValueError(f"missing: expected 'refuse' or 'model', got {self.missing!r}")
        self._check_columns(X)
        scaled = wants_scaling(self.standardize, self.likelihood)
        self.columns_ = ColumnScaler.fit(X, self._names(X)) if scaled else None
        device = choose_device(self.config_.training.device)
        dataset = self._dataset(X, given)
        model = build_vae(self.config_, (X.shape[1],), None, self.columns_, self._condition)
        self.model_ = model.to(device).eval()
        self.elbo_ = []
        self._trainer = self._new_trainer(dataset)

    def _configured(self) -> Config:
        return config_of(self.get_params(), self._seed)

    def _check_columns(self, X: np.ndarray) -> None:
        """See that every column has a value."""
        empty = np.flatnonzero(np.isnan(X).all(0))
        if len(empty):
            names = ", ".join(str(self._names(X)[k]) for k in empty[:5])
            raise ValueError(
                f"X: expected a value in every column, got NaN alone in {len(empty)} of "
                f"{X.shape[1]}: {names}{' …' if len(empty) > 5 else ''}"
            )

    def _checked(self, X: Any, reset: bool) -> np.ndarray:
        """X (N, P) as real numbers, with NaN where the model knows what to do with it."""
        return np.asarray(validate_data(self, X, reset=reset, **self._kinds()))

    def _kinds(self) -> dict[str, Any]:
        finite = "allow-nan" if self.missing == "model" else True
        return {"dtype": [np.float64, np.float32], "ensure_all_finite": finite}

    def _go_on(self, X: np.ndarray, given: Tensor | None = None) -> None:
        """The trainer for more epochs, where its state was kept; else a new one."""
        config = self._configured()
        check_same(self.config_, config)
        dataset, state = self._dataset(X, given), None
        if hasattr(self, "_trainer"):
            state = self._trainer.state_dict()
            config = config.replace(epochs=self._trainer.epoch + self.epochs)
        self.config_ = config
        self._trainer = self._new_trainer(dataset)
        if state is not None:
            self._trainer.load_state_dict(state)

    def _names(self, X: np.ndarray) -> Sequence[str]:
        return getattr(self, "feature_names_in_", [f"x_{k + 1}" for k in range(X.shape[1])])

    def _new_trainer(self, dataset: Dataset) -> Trainer:
        config = self.config_
        return Trainer(self.model_, dataset, config.training, config.objective, config.seed)

    def _ready_trainer(self, dataset: Dataset) -> Trainer:
        """The trainer, or a new one where the estimator comes from a file or a pickle."""
        if not hasattr(self, "_trainer"):
            self._trainer = self._new_trainer(dataset)
        return self._trainer

    def _dataset(self, X: np.ndarray, given: Tensor | None = None) -> Dataset:
        """X as the model is given it, once it is known to lie in the likelihood's support."""
        split = Split(self._scaler.encode(X, np.float32), condition=given)
        dataset = Dataset("arrays", split, split, (X.shape[1],), columns=self.columns_)
        dataset = replace(dataset, condition=self._condition)
        check_support(self.config_.model.likelihood, dataset)
        return dataset

    def _log_volumes(self, X: np.ndarray) -> np.ndarray | float:
        """Log |det| of going back to X's units, of each row (N,): its values that are there."""
        if self.missing != "model":
            return self._scaler.log_volume
        return ((~np.isnan(X)) * np.log(self._scaler.scale)).sum(1)

    def _epoch(self, X: np.ndarray) -> None:
        try:
            for _ in self._trainer.steps():
                pass
            self._trainer.settle()
        finally:
            self.model_.eval()
        elbo = self._trainer.means.read()["elbo"]
        self.elbo_.append(elbo - float(np.mean(self._log_volumes(X))))
        if self.verbose and is_first():
            line = f"epoch {len(self.elbo_)}: ELBO {self.elbo_[-1]:.3f} nats per row\n"
            sys.stderr.write(line)

    def _inference_model(self) -> VAE:
        """The model in float64, where the device has it: a row's last digits, too, then do not
        depend on which rows it came with.
        """
        check_is_fitted(self)
        if next(self.model_.parameters()).device.type == "mps":
            return self.model_
        return copy.deepcopy(self.model_).double()

    def _draws(
        self, model: VAE, X: np.ndarray, given: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows x (B, P), draws z (S, B, D) ~ q(z|x) and log q(z|x) (S, B), a chunk at a time.

        Under conditions ``given``, (C,) or (N, C), rows x are (B, P + C).
        """
        self._dataset(X)
        model = RefinedVAE(model, steps=self.refine) if self.refine else model
        like = next(model.parameters())
        at_once = self.model_.draws_at_once(self.num_samples)
        rows = self._scaler.encode(X, np.float64)
        if given is not None:
            rows = torch.cat([rows, given.to(rows).expand(len(rows), -1)], 1)
        for part in rows.split(at_once):
            x = part.to(like)
            z, log_q = common_draws(model, x, self.num_samples, self._seed)
            yield x, z, log_q

    @property
    def _scaler(self) -> ColumnScaler:
        return ColumnScaler(self.columns_)

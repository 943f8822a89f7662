"""The model as a scikit-learn estimator."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae.estimator_settings import Saved, read_fields, saved_fields
from flowvae.imputation import Imputation, impute
from flowvae.runs import read_model, write_model

try:
    from sklearn.base import (
        ClassNamePrefixFeaturesOutMixin,
        DensityMixin,
        TransformerMixin,
    )
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.validation import check_is_fitted

    from flowvae.estimator_training import TrainedVAE
except ImportError as error:
    raise ImportError(
        "FlowVAE needs scikit-learn 1.6 or later; pip install 'flowvae[sklearn]'"
    ) from error

__all__ = ["FlowVAE"]


class FlowVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, TrainedVAE):
    """A variational autoencoder with a flow posterior, for arrays X (N, P) of real numbers.

    Everything it gives is deterministic once fitted: z ~ q(z|x) is drawn with the same
    ``num_samples`` noise vectors for every row, so a row's result does not depend on the others.

    Args:
        posterior: family of q(z|x), see ``flowvae train --help`` for this and the next three.
        prior: family of p(z).
        likelihood: family of p(x|z); its support must hold X.
        network: family of the encoder and decoder bodies.
        latent_dim: D, the number of columns that ``transform`` gives.
        num_flows: K, the number of flows.
        hidden_dims: widths of the encoder's hidden layers; the decoder's in reverse.
        epochs: passes over X in ``fit``.
        batch_size: rows per step.
        learning_rate: of Adam.
        weight_decay: of Adam.
        max_grad_norm: clip the gradient to this norm; not clipped if None.
        standardize: bring every column to mean 0 and deviation 1 first; ``"auto"`` does so where
            the likelihood lives on all of R. A constant column is shifted only.
        num_samples: S, draws of z ~ q(z|x) per row in ``transform``, ``reconstruct`` and
            ``score_samples``.
        refine: steps of optimization of q(z|x) for each row there, see :meth:`flowvae.VAE.refine`.
        missing: ``"refuse"`` NaN in X, or ``"model"``: a row's log p(x) is then of the values that
            are there, the encoder is told which are, and :meth:`impute` fills in the others.
        settings: further fields of :class:`flowvae.Config`, such as ``{"constraint": "paper"}``.
        warm_start: a further ``fit`` goes on from what was learned, with Adam's state and the means
            and scales of the first X, for ``epochs`` more passes; of the parameters that shape the
            model or its training only ``epochs`` may have changed.
        random_state: seed of weights, batches and noise: an int, a ``RandomState`` or None.
        device: auto, cpu, cuda, cuda:N or mps.
        verbose: print a line on standard error after each epoch.

    Attributes:
        model_: the :class:`flowvae.VAE`, for standardised data.
        config_: its :class:`flowvae.Config`.
        columns_: mean and scale of every column, or None.
        elbo_: after each epoch, the mean ELBO of its steps, in nats per row.
        n_features_in_: P.

    Examples:
        >>> import numpy as np
        >>> from flowvae import FlowVAE
        >>> X = np.random.default_rng(0).normal(5.0, 2.0, (200, 4))
        >>> model = FlowVAE(num_flows=4, hidden_dims=(16,), epochs=5, random_state=0).fit(X)
        >>> model.transform(X).shape, model.score_samples(X).shape, model.sample(3).shape
        ((200, 2), (200,), (3, 4))
    """

    n_features_in_: int
    feature_names_in_: np.ndarray

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
        settings: dict[str, Any] | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        device: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.posterior = posterior
        self.prior = prior
        self.likelihood = likelihood
        self.network = network
        self.latent_dim = latent_dim
        self.num_flows = num_flows
        self.hidden_dims = hidden_dims
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.standardize = standardize
        self.num_samples = num_samples
        self.refine = refine
        self.missing = missing
        self.settings = settings
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> FlowVAE:
        """Train from the start, or go on with ``warm_start``: ``epochs`` passes over X (N, P).

        y is ignored.

        Raises:
            ValueError: a parameter out of range, X outside the likelihood's support, or a
                parameter that changed with ``warm_start``.
            TrainingError: the ELBO became NaN or infinite.
        """
        del y
        going_on = self.warm_start and hasattr(self, "model_")
        X = self._checked(X, reset=not going_on)
        if going_on:
            self._go_on(X)
        else:
            self._begin(X)
        for _ in range(self.epochs):
            self._epoch(X)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> FlowVAE:
        """One pass over X, going on from what was learned.

        The first call builds the model; means and scales are those of its X and stay. Adam's
        state is kept between calls, but not in a pickle.
        """
        del y
        first = not hasattr(self, "model_")
        X = self._checked(X, reset=first)
        if first:
            self._begin(X)
        else:
            dataset = self._dataset(X)
            self._ready_trainer(dataset).feed(dataset.train)
        self._epoch(X)
        return self

    @torch.no_grad()
    def transform(self, X: Any) -> np.ndarray:
        """The mean of q(z|x) for each row, (N, D).

        Estimated by ``num_samples`` draws, the same noise for all rows. With a Gaussian posterior
        that is μ up to the mean of that noise.
        """
        model = self._inference_model()
        draws = [z.mean(0) for _, z, _ in self._draws(model, self._checked(X, reset=False))]
        return torch.cat(draws).cpu().double().numpy()

    @torch.no_grad()
    def inverse_transform(self, X: Any) -> np.ndarray:
        """The mean of p(x|z) at each row z of X (N, D): (N, P), in the units of the data."""
        model = self._inference_model()
        z = self._latents(X).to(next(model.parameters()))
        chunks = z.split(self.model_.draws_at_once())
        return self._scaler.decode(torch.cat([model.decode(part).mean for part in chunks]))

    def _latents(self, X: Any) -> Tensor:
        X = check_array(X, dtype="numeric")
        D = self.model_.latent_dim
        if X.shape[1] != D:
            raise ValueError(f"X: expected {D} columns, the latent dimensions, got {X.shape[1]}")
        return torch.from_numpy(np.array(X, dtype=np.float64))

    @torch.no_grad()
    def reconstruct(self, X: Any) -> np.ndarray:
        """The mean of p(x|z) over z ~ q(z|x), by ``num_samples`` draws: (N, P), in X's units."""
        model = self._inference_model()
        X = self._checked(X, reset=False)
        found = [model.decode(z).mean.mean(0) for _, z, _ in self._draws(model, X)]
        return self._scaler.decode(torch.cat(found))

    @torch.no_grad()
    def score_samples(self, X: Any) -> np.ndarray:
        """The importance-weighted bound on log p(x) of each row, (N,), in nats.

        log 1/S Σ_s p(x, z_s) / q(z_s|x), z_s ~ q(z|x), S = ``num_samples``: a lower bound in
        expectation, log p(x) as S → ∞ (arXiv 1509.00519). It is a density of x in its own units:
        standardising is accounted for. Values that are missing do not count.
        """
        model, found = self._inference_model(), []
        X = self._checked(X, reset=False)
        for x, z, log_q in self._draws(model, X):
            found.append((model.log_joint(x, z) - log_q).logsumexp(0) - math.log(len(z)))
        return torch.cat(found).cpu().double().numpy() - self._log_volumes(X)

    def score(self, X: Any, y: Any = None) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The mean of :meth:`score_samples`, in nats per row: higher is better. y is ignored."""
        del y
        return float(self.score_samples(X).mean())

    def impute(
        self,
        X: Any,
        *,
        samples: int = 500,
        draws: int = 0,
        interval: float | None = None,
        random_state: Any = 0,
    ) -> Imputation:
        """Fill in NaN in X (N, P), in its units: see :func:`flowvae.imputation.impute`.

        Args:
            X: with NaN where a value is missing; of an estimator with ``missing="model"``.
            samples: S, draws of z per row.
            draws: M, how many imputations to draw from p(x_mis | x_obs).
            interval: share of the draws that lie in the intervals, such as 0.9.
            random_state: seed of all noise.

        Returns:
            Means, and draws and intervals where they are asked for.
        """
        model = self._inference_model()
        X = self._checked(X, reset=False)
        self._dataset(X)
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        x = self._scaler.encode(X, np.float64)
        numbers: Any = {"samples": samples, "draws": draws, "interval": interval, "seed": seed}
        return Imputation.of(impute(model, x, **numbers), X, self._scaler.decode)

    @torch.no_grad()
    def sample(self, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Draw x ~ p(x|z), z ~ p(z): (n_samples, P), in the units of the data."""
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples: expected at least 1, got {n_samples}")
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        device = next(self.model_.parameters()).device
        generator = torch.Generator(device).manual_seed(seed)
        z = self.model_.prior().rsample((n_samples,), generator)
        x = [self.model_.draw(part, generator) for part in z.split(self.model_.draws_at_once())]
        return self._scaler.decode(torch.cat(x))

    def save(self, path: str | Path) -> None:
        """Write one ``.safetensors`` file: weights, parameters, means and scales; no pickle.

        ``flowvae.load`` reads the model from it too.
        """
        check_is_fitted(self)
        about = saved_fields(self) | self._more_to_save()
        write_model(Path(path), self.model_, self.config_, estimator=json.dumps(about))

    def _more_to_save(self) -> dict[str, Any]:
        return {}

    def _restore(self, about: Saved) -> None:
        """Take what :meth:`_more_to_save` gave."""

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", *, trust: bool = False) -> FlowVAE:
        """Read back what :meth:`save` wrote; ``trust`` is that of :func:`flowvae.load`.

        Raises:
            UserError: there is no such file, or it is none of :meth:`save`.
        """
        model, config, metadata = read_model(Path(path), device, trust)
        found, about = read_fields(cls, path, metadata)
        found.hidden_dims = tuple(about.parameters["hidden_dims"])
        found.model_, found.config_, found.columns_ = model, config, model.columns
        found.n_features_in_, found._seed = about.n_features_in, about.seed
        found.elbo_ = about.elbo
        if about.feature_names_in:
            found.feature_names_in_ = np.array(about.feature_names_in, object)
        found._restore(about)
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "model"
        return tags

    @property
    def _n_features_out(self) -> int:
        """For the names of the columns that ``transform`` gives."""
        return self.model_.latent_dim

"""Training a run: the loop over epochs, and what it leaves on disk."""

from __future__ import annotations

import math
import time

import torch

from flowvae.data import Dataset
from flowvae.errors import TrainingError
from flowvae.evaluation import evaluate_model
from flowvae.progress import Progress
from flowvae.runs import MODEL_FILE, Run
from flowvae.training.events import EventWriter
from flowvae.training.trainer import Trainer
from flowvae.vae import VAE

__all__ = ["fit"]


def fit(run: Run, dataset: Dataset, show: Progress, durations: dict[str, float]) -> None:
    """Train for the run's epochs; after each one, all files on disk are up to date."""
    config, device = run.config, next(run.model.parameters()).device
    training = config.training
    trainer = Trainer(run.model, dataset, training, config.objective, config.seed)
    best = _Best(training.patience)
    splits = {"test": dataset.test.to(device)}
    if dataset.validation is not None:
        splits["validation"] = dataset.validation.to(device)
    rows: list[dict[str, float]] = []
    start = time.perf_counter()
    try:
        with EventWriter(run.path) as events:
            for epoch in range(1, training.epochs + 1):
                epoch_start = time.perf_counter()
                try:
                    for _ in trainer.steps():
                        show.step(epoch, trainer.means)
                except TrainingError as error:
                    kept = "the epoch before" if rows else "no model"
                    raise TrainingError(f"{error}; {run.path} keeps {kept}") from None
                row = {"epoch": float(epoch)}
                row |= {f"train_{name}": value for name, value in trainer.means.read().items()}
                seconds = time.perf_counter() - epoch_start
                with trainer.averaged_weights():
                    for name, split in splits.items():
                        terms = evaluate_model(run.model, split, 1, seed=config.seed).terms
                        row |= {f"{name}_{k}": v.mean for k, v in terms.items() if k != "iw_bound"}
                    better = training.patience is None or best.improves(
                        row["validation_elbo"], run.model
                    )
                    if better:
                        run.save_model()
                row["skipped_steps"] = float(trainer.skipped)
                row["steps_per_second"] = len(trainer.batches) / seconds
                row["seconds"] = time.perf_counter() - start
                rows.append(row)
                run.save_metrics(rows)
                events.write(row)
                show.epoch(row)
                if best.waited_enough():
                    break
    except KeyboardInterrupt:
        trainer.settle()
        best.restore(run.model)
        run.save_model()
        raise
    finally:
        run.model.eval()
        durations["training"] = time.perf_counter() - start
    trainer.settle()
    best.restore(run.model)
    if not (run.path / MODEL_FILE).exists():  # no epoch had a better ELBO than none: all were NaN
        run.save_model()


class _Best:
    """Early stopping: the best weights so far, and how long ago they were the best."""

    def __init__(self, patience: int | None) -> None:
        self.patience, self.elbo, self.waited = patience, -math.inf, 0
        self._weights: dict[str, torch.Tensor] = {}

    def improves(self, elbo: float, model: VAE) -> bool:
        if not elbo > self.elbo:  # NaN is not better than anything
            self.waited += 1
            return False
        self.elbo, self.waited = elbo, 0
        self._weights = {name: value.clone() for name, value in model.state_dict().items()}
        return True

    def waited_enough(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def restore(self, model: VAE) -> None:
        if self._weights:
            model.load_state_dict(self._weights)

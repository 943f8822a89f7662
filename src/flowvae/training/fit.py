"""Training a run: the loop over epochs, and what it leaves on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError
from torch import Tensor

from flowvae import processes
from flowvae.data import Dataset
from flowvae.errors import ProcessLostError, TrainingError, UserError, first_complaint
from flowvae.evaluation import data_digest, evaluate_model
from flowvae.progress import Progress
from flowvae.runs import MODEL_FILE, Run
from flowvae.semi_supervised import classifier_accuracy
from flowvae.training.checkpoint import read_checkpoint, write_checkpoint
from flowvae.training.events import EventWriter
from flowvae.training.stopping import Stopping
from flowvae.training.trainer import Trainer
from flowvae.vae import VAE

__all__ = ["CHECKPOINT", "OnEpoch", "begin", "fit"]


OnEpoch = Callable[[Run, dict[str, float], VAE], Any]
CHECKPOINT = "checkpoint.safetensors"
_BEST = "best."  # of early stopping's weights in a checkpoint
_AGREE_EVERY = 10  # updates, of several processes: it is a message
_DIGESTED = 8  # blocks of the data by which a checkpoint knows them: files may be very large


def begin(run: Run, dataset: Dataset, *, resume: bool = False) -> Book:
    """What :func:`fit` needs. Nothing is written.

    Args:
        run: its model is to be trained.
        dataset: the data.
        resume: go on from the run's checkpoint, if it has one.

    Raises:
        UserError: the checkpoint is corrupt, or of other settings or data.
    """
    config = run.config
    processes.share_weights(run.model.state_dict().values())
    trainer = Trainer(run.model, dataset, config.training, config.objective, config.seed)
    book = Book(run, trainer, data_digest(dataset.train, blocks=_DIGESTED))
    if resume and (run.path / CHECKPOINT).exists():
        book.read()
    return book


def fit(
    book: Book,
    dataset: Dataset,
    show: Progress,
    durations: dict[str, float],
    on_epoch: OnEpoch | None = None,
) -> None:
    """Train for the run's epochs; after each one, all files on disk are up to date.

    A checkpoint is written every ``checkpoint_minutes``, when training is stopped and at its end.

    Args:
        book: what :func:`begin` gave.
        dataset: the data.
        show: what a person sees.
        durations: ``training`` is set, in seconds.
        on_epoch: called after each epoch with the run, the epoch's row of metrics and the model,
            which has the weights that were evaluated; training ends if it returns True.

    Raises:
        TrainingError: the ELBO became NaN or infinite.
        KeyboardInterrupt: after what was learned was saved.
    """
    run, trainer, training = book.run, book.trainer, book.run.config.training
    if book.rows:
        run.save_metrics(book.rows)  # a process that was killed may have had an epoch more
    show.goes_on_at(trainer.epoch, trainer.position)
    splits = {"test": dataset.test}
    if dataset.validation is not None:
        splits["validation"] = dataset.validation
    splits = {name: split.to(trainer.device) for name, split in splits.items()}
    try:
        folder = run.path if processes.is_first() else None
        with EventWriter(folder) as events, Stopping() as stopping:
            while trainer.epoch < training.epochs and not book.best.waited_enough():
                row = _one_epoch(trainer, book, show, stopping)
                with trainer.averaged_weights():
                    for name, split in splits.items():
                        terms = evaluate_model(run.model, split, 1, seed=run.config.seed).terms
                        row |= {f"{name}_{k}": v.mean for k, v in terms.items() if k != "iw_bound"}
                        if run.model.classifier is not None:
                            row[f"{name}_accuracy"] = classifier_accuracy(run.model, split)
                    if training.patience is None or book.best.improves(
                        row["validation_elbo"], run.model
                    ):
                        run.save_model()
                book.close_epoch(row)
                events.write(row)
                show.epoch(row)
                if on_epoch is not None and _is_enough(on_epoch, trainer, run, row):
                    break
                if stopping.agree(book.is_due()):
                    book.write()
                stopping.stop()
            book.write()
            stopping.agree()
            stopping.stop()  # asked for since the last epoch
    except KeyboardInterrupt:
        trainer.settle()
        book.best.restore(run.model)
        run.save_model()
        raise
    finally:
        run.model.eval()
        durations["training"] = book.seconds()
    trainer.settle()
    book.best.restore(run.model)
    if training.patience is None or not (run.path / MODEL_FILE).exists():
        # Killed after an epoch's end, or no epoch had a better ELBO than none: all were NaN.
        run.save_model()


def _one_epoch(
    trainer: Trainer, book: Book, show: Progress, stopping: Stopping
) -> dict[str, float]:
    """What is left of an epoch, and its training figures."""
    epoch, start, first = trainer.epoch + 1, time.perf_counter(), trainer.position
    try:
        for _ in trainer.steps():
            show.step(epoch, trainer.means)
            if processes.process_count() > 1 and trainer.position % _AGREE_EVERY:
                continue
            if stopping.agree(book.is_due()):
                book.write()
                stopping.stop()
    except ProcessLostError:
        raise
    except TrainingError as error:
        kept = "the epoch before" if book.rows else "no model"
        raise TrainingError(f"{error}; {book.run.path} keeps {kept}") from None
    row = {"epoch": float(epoch)}
    row |= {f"train_{name}": value for name, value in trainer.means.read().items()}
    row |= {f"train_{name}": value for name, value in trainer.objective.report().items()}
    updates = len(trainer.batches) - first * trainer.training.accumulate
    book.speed = updates / (time.perf_counter() - start)
    return row


def _is_enough(on_epoch: OnEpoch, trainer: Trainer, run: Run, row: dict[str, float]) -> bool:
    """Call it, in the first process alone, and give all its answer."""

    def answer() -> bool:
        with processes.alone():
            return on_epoch(run, dict(row), run.model) is True

    with trainer.averaged_weights():
        return processes.first_decides(answer)


class Book:
    """What a run knows of its training beside the trainer's state, and the checkpoint of both."""

    def __init__(self, run: Run, trainer: Trainer, fingerprint: str) -> None:
        self.run, self.trainer, self.fingerprint = run, trainer, fingerprint
        self.best = _Best(run.config.training.patience)
        self.rows: list[dict[str, float]] = []
        self.speed = 0.0
        self._before, self._start = 0.0, time.perf_counter()  # seconds of earlier calls
        self._last = self._start

    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._start

    def close_epoch(self, row: dict[str, float]) -> None:
        row["skipped_steps"] = float(self.trainer.skipped)
        row["steps_per_second"] = self.speed
        row["seconds"] = self.seconds()
        self.rows.append(row)
        self.run.save_metrics(self.rows)

    def is_due(self) -> bool:
        minutes = self.run.config.training.checkpoint_minutes
        return time.perf_counter() - self._last > 60 * minutes

    def write(self) -> None:
        """All processes must call it; the first one writes."""
        best = {f"{_BEST}{name}": value for name, value in self.best.weights.items()}
        state = {**self.trainer.state_dict(), **best}
        if processes.is_first():
            write_checkpoint(
                self.run.path / CHECKPOINT,
                state,
                data=self.fingerprint,
                rows=self.rows,
                seconds=self.seconds(),
                waited=self.best.waited,
                best_elbo=self.best.elbo if self.best.weights else None,
            )
        self._last = time.perf_counter()

    def read(self) -> None:
        file = self.run.path / CHECKPOINT
        state, more = read_checkpoint(file)
        try:
            kept = _Kept.model_validate(more)
            if kept.data != self.fingerprint:
                raise ValueError("the training data are not those that it was trained on")
            best = {name: state.pop(name) for name in list(state) if name.startswith(_BEST)}
            weights = {name.removeprefix(_BEST): value for name, value in best.items()}
            self.trainer.load_state_dict(state)
            if len(kept.rows) != self.trainer.epoch:
                raise ValueError(f"rows: expected {self.trainer.epoch}, got {len(kept.rows)}")
            self.best.take(weights, kept.best_elbo, kept.waited, self.run.model)
        except ValidationError as error:
            reason = ": ".join(filter(None, first_complaint(error)))
            raise UserError(f"checkpoint: {file} is corrupt: {reason}") from None
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"checkpoint: {file} does not fit the run: {error}") from None
        done, epochs = self.trainer.epoch, self.run.config.training.epochs
        if epochs < done:
            raise UserError(f"epochs: expected at least the {done} that are done, got {epochs}")
        self.rows, self._before = kept.rows, kept.seconds


class _Kept(BaseModel):
    """What :class:`Book` writes beside the trainer's state."""

    data: str
    rows: list[dict[str, float]]
    seconds: float
    waited: int
    best_elbo: float | None


class _Best:
    """Early stopping: the best weights so far, and how long ago they were the best."""

    def __init__(self, patience: int | None) -> None:
        self.patience, self.elbo, self.waited = patience, -math.inf, 0
        self.weights: dict[str, Tensor] = {}

    def improves(self, elbo: float, model: VAE) -> bool:
        if not elbo > self.elbo:  # NaN is not better than anything
            self.waited += 1
            return False
        self.elbo, self.waited = elbo, 0
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        return True

    def waited_enough(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def restore(self, model: VAE) -> None:
        if self.weights:
            model.load_state_dict(self.weights)

    def take(self, weights: dict[str, Any], elbo: float | None, waited: int, model: VAE) -> None:
        """Go on from what a checkpoint has."""
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        if weights and shapes != {name: value.shape for name, value in weights.items()}:
            raise ValueError("its best weights are not those of the model")
        device = next(model.parameters()).device
        self.weights = {name: value.to(device) for name, value in weights.items()}
        self.elbo, self.waited = -math.inf if elbo is None else elbo, waited

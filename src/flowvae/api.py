"""Training runs and drawing their pictures, as one call each."""

from __future__ import annotations

import time
from contextlib import ExitStack, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from flowvae import processes
from flowvae.building import build_vae
from flowvae.config import Config, resolve_config
from flowvae.data import Dataset, binarize
from flowvae.data.conditions import check_known, conditioned
from flowvae.data.load import load_configured
from flowvae.device import choose_device
from flowvae.errors import TrainingError, UserError
from flowvae.evaluating import evaluate
from flowvae.initialization import start_at_mean
from flowvae.likelihoods.support import check_support, fitting_likelihoods
from flowvae.objectives import build_objective
from flowvae.progress import Progress
from flowvae.registry import OBJECTIVES
from flowvae.run_folders import new_run_folder, only_writer, read_config
from flowvae.runs import Run, RunLike, opened
from flowvae.training.fit import OnEpoch, begin, fit

__all__ = ["describe_data", "draw_figures", "resume", "train"]


def train(
    config: Config | str = "original",
    *,
    out: str | Path | None = None,
    dataset: Dataset | None = None,
    progress: bool = True,
    finish: bool = True,
    on_epoch: OnEpoch | None = None,
    **overrides: Any,
) -> Run:
    """Train a model, evaluate it on the test data and draw its pictures.

    Args:
        config: a :class:`flowvae.Config`, or the name of a preset.
        out: the run folder, new or empty; a dated one under ``runs/`` if not given.
        dataset: data already in memory, see :meth:`flowvae.data.Dataset.from_arrays`; else what
            ``config.data.source`` names.
        progress: show a live line, or plain lines where there is no terminal.
        finish: end with evaluation and pictures.
        on_epoch: called after each epoch with the run, the epoch's row of metrics, a dictionary,
            and the model; training ends there if it returns True. See :mod:`flowvae.callbacks`.
        **overrides: fields of the configuration to replace, such as ``epochs=5``.

    Returns:
        The run, its model in evaluation mode.

    Raises:
        UserError: bad input; nothing has been written.
        TrainingError: the ELBO became NaN or infinite; the last good model is kept.
        KeyboardInterrupt: after what was learned was saved.

    Examples:
        >>> import flowvae, numpy as np
        >>> from flowvae.data import Dataset
        >>> pixels = np.random.rand(200, 6, 5)
        >>> data = Dataset.from_arrays(pixels[:150], pixels[150:])
        >>> run = flowvae.train("planar", dataset=data, out=tmp_path / "run", epochs=2,
        ...                     evaluation_samples=4, progress=False)
        >>> run.evaluation.count, len(run.metrics)
        (50, 2)
    """
    if isinstance(config, str):
        config = resolve_config(preset=config, **overrides)
    elif overrides:
        config = config.replace(**overrides)
    with processes.joined():
        folder = Path(processes.first_decides(lambda: str(new_run_folder(out, config))))
        return _train(config, folder, dataset, _How(progress, finish, on_epoch, resume=False))


def resume(
    path: str | Path,
    *,
    epochs: int | None = None,
    dataset: Dataset | None = None,
    device: str | None = None,
    progress: bool = True,
    finish: bool = True,
    on_epoch: OnEpoch | None = None,
    trust: bool = False,
) -> Run:
    """Go on with a run that was stopped or killed, as if nothing had happened, or train it longer.

    Weights, averaged weights, optimizer, schedule, generators and the place in the epoch are those
    of the run's last checkpoint, so on a CPU the outcome is the same to the bit. A run that was
    killed before its first checkpoint starts again.

    Args:
        path: the run folder.
        epochs: train so many in all; the run's own number if not given.
        dataset: data already in memory, if the run was given such.
        device: where to train; the run's own if not given.
        progress: show a live line, or plain lines where there is no terminal.
        finish: end with evaluation and pictures.
        on_epoch: as in :func:`train`.
        trust: import the module of a family that is ``module:Class``, which executes its code.

    Raises:
        UserError: no run is there, another process is writing to it, its checkpoint is corrupt, or
            the data are not those that it was trained on.
        TrainingError: as in :func:`train`.

    Examples:
        >>> import flowvae, numpy as np
        >>> from flowvae.data import Dataset
        >>> pixels = np.random.rand(200, 6, 5)
        >>> data = Dataset.from_arrays(pixels[:150], pixels[150:])
        >>> options = {"dataset": data, "progress": False}
        >>> run = flowvae.train(out=tmp_path / "run", epochs=1, evaluation_samples=4, **options)
        >>> run = flowvae.resume(run.path, epochs=3, **options)
        >>> [row["epoch"] for row in run.metrics]
        [1.0, 2.0, 3.0]
    """
    folder = Path(path)
    config = read_config(folder, trust)
    changed = {"epochs": epochs, "device": device}
    config = config.replace(**{name: v for name, v in changed.items() if v is not None})
    with processes.joined():
        return _train(config, folder, dataset, _How(progress, finish, on_epoch, resume=True))


class _How(NamedTuple):
    progress: bool
    finish: bool
    on_epoch: OnEpoch | None
    resume: bool


def _train(config: Config, folder: Path, dataset: Dataset | None, how: _How) -> Run:
    run, dataset = processes.together(lambda: _new_run(config, folder, dataset))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(config.training.threads or threads)
        with ExitStack() as locked:
            lock = only_writer(folder) if processes.is_first() else nullcontext()
            processes.together(lambda: locked.enter_context(lock))
            _train_locked(run, dataset, how)
    finally:
        torch.set_num_threads(threads)
    return run


def _new_run(config: Config, folder: Path, dataset: Dataset | None) -> tuple[Run, Dataset]:
    """A run with an untrained model, and its data. Nothing is written."""
    training, named = config.training, config.data
    device = choose_device(training.device)
    if dataset is None:
        dataset = load_configured(named, config.seed)
    else:
        dataset = conditioned(dataset, named.condition, labelled=named.labelled)
        if dataset.binarization == "none" and named.binarization != "none":
            dataset = binarize(dataset, named.binarization)
    config = config.replace(data=dataset.name, binarization=dataset.binarization)
    check_support(config.model.likelihood, dataset)
    _check_known(config, dataset)
    if training.patience is not None and dataset.validation is None:
        raise UserError(
            f"patience: expected validation data to decide by, got none; set validation_fraction "
            f"beside patience={training.patience}"
        )
    model = build_vae(config, dataset.data_shape, None, dataset.columns, dataset.condition)
    if config.model.init_output_bias:
        try:
            start_at_mean(model, dataset.train.mean())
        except ValueError as error:
            raise UserError(str(error)) from None
    model = model.to(device)
    build_objective(config.objective, 1).check(model)
    return Run(folder, config, model, dataset), dataset


def _check_known(config: Config, dataset: Dataset) -> None:
    """See that every value and every condition is there that training and evaluation need.

    Raises:
        UserError: one is missing.
    """
    semi_supervised = OBJECTIVES[config.objective.name].semi_supervised
    for name, split in dataset.splits.items():
        if split.has_missing and config.data.missing != "model":
            raise UserError(
                f"missing: the {name} data of {dataset.name} have missing values, NaN; "
                "missing=model learns from what is there"
            )
        if not (semi_supervised and name == "train"):
            hint = "; objective=m2 learns from such data" if name == "train" else ""
            check_known(split, name, hint)


def _train_locked(run: Run, dataset: Dataset, how: _How) -> None:
    """Training, evaluation and pictures; no other command writes to the run meanwhile."""
    shown = how.progress and processes.is_first()
    show = Progress(run.config, dataset, run.path, run.pseudo_likelihood, enabled=shown)
    book = processes.together(lambda: begin(run, dataset, resume=how.resume))
    durations: dict[str, float] = {}
    about = {"started": datetime.now().astimezone().isoformat(timespec="seconds")}

    def finish() -> None:
        run.save_environment(status="evaluating", durations=durations, **about)
        try:
            durations["evaluation"] = _timed(lambda: evaluate(run, progress=how.progress))
        except UserError as error:  # its data were fine until here
            raise TrainingError(
                f"training: the trained model cannot be evaluated: {error}. Try a lower "
                "learning_rate or max_grad_ratio=3"
            ) from None
        if processes.is_first():
            with processes.alone():
                durations["figures"] = _timed(lambda: draw_figures(run))

    try:
        run.save_config()
        run.save_environment(status="training", **about)
        with show:
            fit(book, dataset, show, durations, how.on_epoch)
        if how.finish:
            processes.together(finish)
    except BaseException as error:
        if (run.path / "config.yaml").exists():
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            run.save_environment(status=status, durations=durations, **about)
        raise
    run.save_environment(status="finished", durations=durations, **about)


def describe_data(config: Config) -> str:
    """What ``config.data.source`` names, in a few lines: shape, splits, ranges, likelihoods."""
    from flowvae.data.summary import summary

    dataset = load_configured(config.data, config.seed)
    return f"{summary(dataset)}\n  likelihoods  {', '.join(fitting_likelihoods(dataset))}"


def draw_figures(run: RunLike, *, data: str | None = None, device: str = "auto") -> list[Path]:
    """Draw every picture of a run that its data and latent dimension allow, as PNG files.

    Args:
        run: a run, or its folder.
        data: other data of the same shape.
        device: where to compute, for a run given by its folder.

    Returns:
        The files written, under ``figures/`` of the run.
    """
    from flowvae.figures import save_all

    return save_all(opened(run, device, data))


def _timed(action: Any) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start

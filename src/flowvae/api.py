"""Everything the commands do, as one call each."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from flowvae.config import Config, resolve_config
from flowvae.data import Dataset, binarize
from flowvae.data.load import load_configured
from flowvae.device import choose_device
from flowvae.errors import TrainingError, UserError
from flowvae.evaluation import (
    Comparison,
    Evaluation,
    FullEvaluation,
    FullSettings,
    check_comparable,
    compare_values,
    data_digest,
    encode_split,
    evaluate_model,
    full_markdown,
    importance_estimate,
    model_digest,
)
from flowvae.evaluation import evaluate_full as run_full_evaluation
from flowvae.files import write_json, write_text
from flowvae.initialization import start_at_mean
from flowvae.likelihoods.support import check_support, fitting_likelihoods
from flowvae.objectives import build_objective
from flowvae.progress import Progress
from flowvae.run_folders import new_run_folder, only_writer, read_config
from flowvae.runs import Run, RunLike, opened
from flowvae.training.fit import OnEpoch, begin, fit
from flowvae.vae import build_vae

__all__ = [
    "compare",
    "describe_data",
    "draw_figures",
    "evaluate",
    "evaluate_full",
    "resume",
    "train",
]


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
    folder = new_run_folder(out, config)
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
    done = len(Run.rows_in(folder))
    if epochs is not None and epochs < done:
        raise UserError(f"epochs: expected at least the {done} that are done, got {epochs}")
    return _train(config, folder, dataset, _How(progress, finish, on_epoch, resume=True))


class _How(NamedTuple):
    progress: bool
    finish: bool
    on_epoch: OnEpoch | None
    resume: bool


def _train(config: Config, folder: Path, dataset: Dataset | None, how: _How) -> Run:
    training, named = config.training, config.data
    device = choose_device(training.device)
    if dataset is None:
        dataset = load_configured(named, config.seed)
    elif dataset.binarization == "none" and named.binarization != "none":
        dataset = binarize(dataset, named.binarization)
    config = config.replace(data=dataset.name, binarization=dataset.binarization)
    check_support(config.model.likelihood, dataset)
    if training.patience is not None and dataset.validation is None:
        raise UserError(
            f"patience: expected validation data to decide by, got none; set validation_fraction "
            f"beside patience={training.patience}"
        )
    model = build_vae(config, dataset.data_shape, columns=dataset.columns)
    if config.model.init_output_bias:
        try:
            start_at_mean(model, dataset.train.mean())
        except ValueError as error:
            raise UserError(str(error)) from None
    model = model.to(device)
    build_objective(config.objective, 1).check(model)
    run = Run(folder, config, model, dataset)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(training.threads or threads)
        with only_writer(folder):
            _train_alone(run, dataset, how)
    finally:
        torch.set_num_threads(threads)
    return run


def _train_alone(run: Run, dataset: Dataset, how: _How) -> None:
    """Training, evaluation and pictures, by the only process that writes to the run."""
    show = Progress(run.config, dataset, run.path, run.pseudo_likelihood, enabled=how.progress)
    book = begin(run, dataset, resume=how.resume)
    durations: dict[str, float] = {}
    about = {"started": datetime.now().astimezone().isoformat(timespec="seconds")}
    try:
        run.save_config()
        run.save_environment(status="training", **about)
        with show:
            fit(book, dataset, show, durations, how.on_epoch)
        if how.finish:
            run.save_environment(status="evaluating", durations=durations, **about)
            try:
                durations["evaluation"] = _timed(lambda: evaluate(run, progress=how.progress))
            except UserError as error:  # its data were fine until here
                raise TrainingError(
                    f"training: the trained model cannot be evaluated: {error}. Try a lower "
                    "learning_rate or max_grad_ratio=3"
                ) from None
            durations["figures"] = _timed(lambda: draw_figures(run))
    except BaseException as error:
        if (run.path / "config.yaml").exists():
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            run.save_environment(status=status, durations=durations, **about)
        raise
    run.save_environment(status="finished", durations=durations, **about)


def evaluate(
    run: RunLike,
    samples: int | None = None,
    *,
    data: str | None = None,
    device: str = "auto",
    seed: int | None = None,
    refine: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Evaluate a run on its test data and write ``evaluation.json``.

    Args:
        run: a run, or its folder.
        samples: S, draws of z per datum; the run's ``evaluation_samples`` if not given.
        data: other data of the same shape.
        device: where to compute, for a run given by its folder.
        seed: of the draws; the run's seed if not given.
        refine: also evaluate the posterior after so many steps of optimization for each datum.
        progress: show how far it is.

    Returns:
        ELBO, its terms and the S-sample importance-weighted bound, mean ± standard error in nats.
    """
    run = opened(run, device, data)
    config, dataset = run.config, run.dataset
    samples = config.evaluation.samples if samples is None else samples
    if samples < 1:
        raise UserError(f"samples: expected at least 1, got {samples}")
    if refine < 0:
        raise UserError(f"refine: expected at least 0, got {refine}")
    total = len(dataset.test) * (2 if refine else 1)
    with Progress.bar("evaluating", total, enabled=progress) as advance:
        evaluation = evaluate_model(
            run.model,
            dataset.test,
            samples,
            seed=config.seed if seed is None else seed,
            data=dataset.name,
            binarization=dataset.binarization,
            pseudo_likelihood=run.pseudo_likelihood,
            refine=refine,
            advance=advance,
        )
    run.save_evaluation(evaluation)
    return evaluation


def evaluate_full(
    run: RunLike,
    settings: FullSettings | None = None,
    *,
    data: str | None = None,
    device: str = "auto",
    seed: int | None = None,
    progress: bool = True,
) -> FullEvaluation:
    """Evaluate a run on its test data by every method there is, and write what was found.

    Importance sampling, quadrature (D ≤ 2), annealed importance sampling and its check from both
    sides, the inference gap and its parts, mutual information and active units. Finished parts
    are kept in ``evaluation/`` of the run, so a call that was stopped goes on where it was.
    Writes ``evaluation/full.json``, ``evaluation/full.md`` and ``figures/evaluation.png``.

    Args:
        run: a run, or its folder.
        settings: how much of everything.
        data: other data of the same shape.
        device: where to compute, for a run given by its folder.
        seed: of the draws; the run's seed if not given.
        progress: show how far it is, and the time left.
    """
    from flowvae.figures import evaluation_figure, save_figure

    run = opened(run, device, data)
    model, dataset = run.model, run.dataset
    seed = run.config.seed if seed is None else seed
    found = run_full_evaluation(
        model,
        dataset,
        run.path / "evaluation",
        settings or FullSettings(),
        seed=seed,
        bar=lambda total: Progress.bar("evaluating", total, enabled=progress),
    )
    write_json(run.path / "evaluation" / "full.json", found.summary)
    write_text(
        run.path / "evaluation" / "full.md", full_markdown(found.summary, run.path.resolve().name)
    )
    z, _ = encode_split(model, dataset.test, run.generator(seed))
    save_figure(evaluation_figure(found, model, z), run.figures / "evaluation.png")
    return found


def compare(
    *runs: RunLike,
    samples: int | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Comparison:
    """Compare runs on the test data they share, datum by datum.

    Args:
        *runs: two or more runs, or their folders.
        samples: S, importance samples per datum; the first run's ``evaluation_samples`` if not
            given. What was computed with as many before is read from the runs.
        out: also write ``compare.json``, ``compare.md`` and ``compare.png`` to this folder.
        device: where to compute, for runs given by their folders.
        progress: show how far it is.

    Raises:
        UserError: the runs differ in data, binarization, split, or kind of likelihood.
    """
    shown = [opened(run, device) for run in runs]
    check_comparable(shown)
    samples = shown[0].config.evaluation.samples if samples is None else samples
    if samples < 1:
        raise UserError(f"samples: expected at least 1, got {samples}")
    parts = [importance_estimate(run.model.eval(), run.dataset, samples) for run in shown]
    values = []
    total = sum(part.total for part in parts)
    with Progress.bar("comparing", total, enabled=progress) as advance:
        for run, part in zip(shown, parts, strict=True):
            about = {"model": model_digest(run.model), "data": data_digest(run.dataset.test)}
            where = next(run.model.parameters()).device
            folder, seed = run.path / "evaluation", run.config.seed
            values.append(part.load_or_compute(folder, about, seed, where, advance))
    found = compare_values(shown, values, samples)
    if out is not None:
        from flowvae.figures import comparison_figure, save_figure

        folder = Path(out)
        write_json(folder / "compare.json", found.summary)
        write_text(folder / "compare.md", found.to_markdown())
        save_figure(comparison_figure(found), folder / "compare.png")
    return found


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

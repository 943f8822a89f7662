"""Everything the commands do, as one call each."""

from __future__ import annotations

import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowvae.config import Config, resolve_config
from flowvae.data import Column, Dataset, Split, binarize, decode_table
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
    importance_part,
    model_digest,
)
from flowvae.evaluation import evaluate_full as run_full_evaluation
from flowvae.files import replacing, write_csv, write_json, write_text
from flowvae.fit import fit
from flowvae.likelihoods.support import check_support, fitting_likelihoods
from flowvae.objectives import build_objective
from flowvae.progress import Progress
from flowvae.runs import Run, new_run_folder, open_run
from flowvae.vae import build_vae, start_at_mean

__all__ = [
    "compare",
    "describe_data",
    "draw_figures",
    "encode",
    "evaluate",
    "evaluate_full",
    "reconstruct",
    "sample",
    "train",
]

RunLike = Run | str | Path


def train(
    config: Config | str = "original",
    *,
    out: str | Path | None = None,
    dataset: Dataset | None = None,
    progress: bool = True,
    finish: bool = True,
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
    training, named = config.training, config.data
    device = choose_device(training.device)
    folder = new_run_folder(out, config)
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
    show = Progress(config, dataset, folder, run.pseudo_likelihood, enabled=progress)
    durations: dict[str, float] = {}
    about = {"started": datetime.now().astimezone().isoformat(timespec="seconds")}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(training.threads or threads)
        folder.mkdir(parents=True, exist_ok=True)
        run.save_config()
        run.save_environment(status="training", **about)
        with show:
            fit(run, dataset, show, durations)
        if finish:
            run.save_environment(status="evaluating", durations=durations, **about)
            try:
                durations["evaluation"] = _timed(lambda: evaluate(run, progress=progress))
                durations["figures"] = _timed(lambda: draw_figures(run))
            except UserError as error:  # its data were fine until here
                raise TrainingError(
                    f"training: the trained model cannot be evaluated: {error}. Try a lower "
                    "learning_rate or max_grad_norm=50"
                ) from None
    except BaseException as error:
        if (folder / "config.yaml").exists():
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            run.save_environment(status=status, durations=durations, **about)
        raise
    finally:
        torch.set_num_threads(threads)
    run.save_environment(status="finished", durations=durations, **about)
    return run


def evaluate(
    run: RunLike,
    samples: int | None = None,
    *,
    data: str | None = None,
    device: str = "auto",
    seed: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Evaluate a run on its test data and write ``evaluation.json``.

    Args:
        run: a run, or its folder.
        samples: S, draws of z per datum; the run's ``evaluation_samples`` if not given.
        data: other data of the same shape.
        device: where to compute, for a run given by its folder.
        seed: of the draws; the run's seed if not given.
        progress: show how far it is.

    Returns:
        ELBO, its terms and the S-sample importance-weighted bound, mean ± standard error in nats.
    """
    run = _open(run, device, data)
    config, dataset = run.config, run.dataset
    samples = config.evaluation.samples if samples is None else samples
    if samples < 1:
        raise UserError(f"samples: expected at least 1, got {samples}")
    with Progress.bar("evaluating", len(dataset.test), enabled=progress) as advance:
        evaluation = evaluate_model(
            run.model,
            dataset.test,
            samples,
            seed=config.seed if seed is None else seed,
            data=dataset.name,
            binarization=dataset.binarization,
            pseudo_likelihood=run.pseudo_likelihood,
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

    run = _open(run, device, data)
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
    z, _ = encode_split(model, dataset.test, _generator(run, seed))
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
    opened = [_open(run, device) for run in runs]
    check_comparable(opened)
    samples = opened[0].config.evaluation.samples if samples is None else samples
    if samples < 1:
        raise UserError(f"samples: expected at least 1, got {samples}")
    parts = [importance_part(run.model.eval(), run.dataset, samples) for run in opened]
    values = []
    total = sum(part.total for part in parts)
    with Progress.bar("comparing", total, enabled=progress) as advance:
        for run, part in zip(opened, parts, strict=True):
            about = {"model": model_digest(run.model), "data": data_digest(run.dataset.test)}
            where = next(run.model.parameters()).device
            folder, seed = run.path / "evaluation", run.config.seed
            values.append(part.find(folder, about, seed, where, advance))
    found = compare_values(opened, values, samples)
    if out is not None:
        from flowvae.figures import comparison_figure, save_figure

        folder = Path(out)
        write_json(folder / "compare.json", found.summary)
        write_text(folder / "compare.md", found.to_markdown())
        save_figure(comparison_figure(found), folder / "compare.png")
    return found


@torch.no_grad()
def sample(
    run: RunLike,
    n: int = 64,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
) -> np.ndarray:
    """Generate: decode n draws of z ~ p(z) to the means of p(x|z).

    Args:
        run: a run, or its folder.
        n: how many.
        out: also write them, as a picture (``.png``), an array ``x`` (``.npz``) or, of a table,
            rows in its own values (``.csv``).
        device: where to compute, for a run given by its folder.
        seed: of the draws.

    Returns:
        (n, *data_shape), float32.
    """
    if n < 1:
        raise UserError(f"num: expected at least 1, got {n}")
    run = _open(run, device)
    x = _shaped(run, run.model.sample(n, _generator(run, seed)))
    if out is not None:
        from flowvae.figures import image_grid

        _write_data(run, out, image_grid, x, {"x": x})
    return x


@torch.no_grad()
def reconstruct(
    run: RunLike,
    n: int = 16,
    *,
    out: str | Path | None = None,
    data: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Encode, flow and decode the first n test data, with one draw z ~ q(z|x) each.

    Args:
        run: a run, or its folder.
        n: how many.
        out: also write them, as a picture (``.png``), as arrays ``x`` and ``reconstruction``
            (``.npz``) or, of a table, as rows in its own values (``.csv``).
        data: other data of the same shape.
        device: where to compute, for a run given by its folder.
        seed: of the draws.

    Returns:
        The originals and their reconstructions, each (n, *data_shape), float32.
    """
    if n < 1:
        raise UserError(f"num: expected at least 1, got {n}")
    run = _open(run, device, data)
    x = run.dataset.test.values(slice(n)).to(next(run.model.parameters()).device)
    original = _shaped(run, x)
    reconstruction = _shaped(run, run.model.reconstruct(x, _generator(run, seed)))
    if out is not None:
        from flowvae.figures import image_pairs

        arrays = {"x": original, "reconstruction": reconstruction}
        _write_data(run, out, image_pairs, (original, reconstruction), arrays)
    return original, reconstruction


@torch.no_grad()
def encode(
    run: RunLike,
    split: str = "test",
    *,
    out: str | Path | None = None,
    data: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Draw z ~ q(z|x) once for every datum, with its log-density.

    Args:
        run: a run, or its folder.
        split: ``"test"`` or ``"train"``.
        out: also write them, as ``.npz`` (z, log_q, label) or ``.csv`` (z_1 … z_D, log_q, label).
        data: other data of the same shape.
        device: where to compute, for a run given by its folder.
        seed: of the draws.

    Returns:
        ``z`` (N, D), ``log_q`` (N,) in nats and, where the data has labels, ``label`` (N,).
    """
    if split not in ("test", "train"):
        raise UserError(f"split: expected test or train, got {split!r}")
    suffix = None if out is None else _suffix(out, ".npz", ".csv")
    run = _open(run, device, data)
    chosen: Split = getattr(run.dataset, split)
    z, log_q = encode_split(run.model, chosen, _generator(run, seed))
    found = {"z": z.numpy(), "log_q": log_q.numpy()}
    if chosen.labels is not None:
        found["label"] = chosen.labels.numpy()
    if out is not None and suffix == ".npz":
        _write_npz(out, found)
    elif out is not None:
        D = found["z"].shape[1]
        header = [*(f"z_{d + 1}" for d in range(D)), *(name for name in found if name != "z")]
        columns = [*found["z"].T, *(value for name, value in found.items() if name != "z")]
        write_csv(out, header, list(zip(*(column.tolist() for column in columns), strict=True)))
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

    return save_all(_open(run, device, data))


def _open(run: RunLike, device: str, data: str | None = None) -> Run:
    if not isinstance(run, Run):
        return open_run(run, device, data)
    if data is None:
        return run
    return Run(run.path, run.config.replace(data=data), run.model)


def _generator(run: Run, seed: int) -> torch.Generator:
    return torch.Generator(next(run.model.parameters()).device).manual_seed(seed)


def _shaped(run: Run, x: torch.Tensor) -> np.ndarray:
    return x.cpu().reshape(-1, *run.model.data_shape).numpy()


def _suffix(out: str | Path, *allowed: str) -> str:
    suffix = Path(out).suffix.lower()
    if suffix not in allowed:
        raise UserError(f"out: expected a file ending in {' or '.join(allowed)}, got {out}")
    return suffix


def _write_npz(out: str | Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(out) as temporary:
        np.savez_compressed(temporary, **arrays)  # pyright: ignore[reportArgumentType]


def _write_data(
    run: Run, out: str | Path, draw: Any, images: Any, arrays: dict[str, np.ndarray]
) -> None:
    """Arrays as they are, as a picture, or as rows of a table: those of all arrays by turns."""
    table = (".csv",) if run.model.columns is not None else ()
    suffix = _suffix(out, ".png", ".npz", *table)
    if suffix == ".npz":
        _write_npz(out, arrays)
    elif suffix == ".csv":
        columns = run.model.columns or ()
        decoded = {name: decode_table(columns, array) for name, array in arrays.items()}
        count = len(next(iter(arrays.values())))
        rows = [
            [name, *(_cell(column, table[column.name][row]) for column in columns)]
            for row in range(count)
            for name, table in decoded.items()
        ]
        write_csv(out, ["array", *(column.name for column in columns)], rows)
    else:
        from flowvae.figures import save_figure

        save_figure(draw(images), out)


def _cell(column: Column, value: Any) -> Any:
    """A number to seven digits of its deviation: what float32 knows of a standardised value."""
    if not isinstance(value, float):
        return value
    before = math.log10(1 + abs(column.mean) / column.scale)
    return f"{value:.{min(17, 7 + math.ceil(before))}g}"


def _timed(action: Any) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start

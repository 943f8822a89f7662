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
from flowvae.data import Dataset, Split, binarize, decode_table
from flowvae.data.load import load_configured
from flowvae.device import choose_device
from flowvae.errors import TrainingError, UserError
from flowvae.evaluation import Evaluation, encode_split, evaluate_model
from flowvae.files import replacing, write_csv
from flowvae.likelihoods.support import check_support, fitting_likelihoods
from flowvae.objectives import build_objective
from flowvae.progress import Progress
from flowvae.runs import Run, new_run_folder, open_run
from flowvae.training import RunningMeans, Trainer
from flowvae.training.events import EventWriter
from flowvae.vae import build_vae

__all__ = [
    "describe_data",
    "draw_figures",
    "encode",
    "evaluate",
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
            ``config.data`` names.
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
        config = resolve_config(**{**config.model_dump(), **overrides})
    device = choose_device(config.device)
    folder = new_run_folder(out, config)
    if dataset is None:
        dataset = load_configured(config)
    elif dataset.binarization == "none" and config.binarization != "none":
        dataset = binarize(dataset, config.binarization)
    about_data = {"data": dataset.name, "binarization": dataset.binarization}
    config = config.model_copy(update=about_data)
    check_support(config, dataset)
    model = build_vae(config, dataset.data_shape, columns=dataset.columns).to(device)
    build_objective(config, 1).check(model)

    run = Run(folder, config, model, dataset)
    show = Progress(config, dataset, folder, enabled=progress)
    durations: dict[str, float] = {}
    about = {"started": datetime.now().astimezone().isoformat(timespec="seconds")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run.save_config()
        run.save_environment(status="training", **about)
        with show:
            _fit(run, dataset, show, durations)
        if finish:
            run.save_environment(status="evaluating", durations=durations, **about)
            durations["evaluation"] = _timed(lambda: evaluate(run, progress=progress))
            durations["figures"] = _timed(lambda: draw_figures(run))
    except BaseException as error:
        if (folder / "config.yaml").exists():
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            run.save_environment(status=status, durations=durations, **about)
        raise
    run.save_environment(status="finished", durations=durations, **about)
    return run


def _fit(run: Run, dataset: Dataset, show: Progress, durations: dict[str, float]) -> None:
    """Train for the run's epochs; after each one, all files on disk are up to date."""
    trainer = Trainer(run.model, dataset, run.config)
    test = dataset.test.to(next(run.model.parameters()).device)
    rows: list[dict[str, float]] = []
    start = time.perf_counter()
    try:
        with EventWriter(run.path) as events:
            for epoch in range(1, run.config.epochs + 1):
                epoch_start, means = time.perf_counter(), RunningMeans()
                for terms in trainer.steps():
                    means.add(terms)
                    show.step(epoch, means)
                train_means = means.read()
                seconds = time.perf_counter() - epoch_start
                if not all(map(math.isfinite, train_means.values())):
                    raise TrainingError(
                        f"training: the ELBO became {train_means['elbo']} in epoch {epoch}; "
                        f"{run.path} keeps {'the epoch before' if rows else 'no model'}. "
                        "Try a lower learning_rate, constraint=centred or max_grad_norm=50"
                    )
                test_means = evaluate_model(run.model, test, 1, seed=run.config.seed).terms
                rows.append(
                    {
                        "epoch": float(epoch),
                        **{f"train_{name}": value for name, value in train_means.items()},
                        **{f"test_{k}": v.mean for k, v in test_means.items() if k != "iw_bound"},
                        "steps_per_second": len(trainer.batches) / seconds,
                        "seconds": time.perf_counter() - start,
                    }
                )
                run.save_model()
                run.save_metrics(rows)
                events.write(rows[-1])
                show.epoch(rows[-1])
    except KeyboardInterrupt:
        run.save_model()
        raise
    finally:
        run.model.eval()
        durations["training"] = time.perf_counter() - start


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
    samples = config.evaluation_samples if samples is None else samples
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
    """What ``config.data`` names, in a few lines: shape, splits, ranges, columns, likelihoods."""
    from flowvae.data.summary import summary

    dataset = load_configured(config)
    return f"{summary(dataset)}\n  likelihoods  {', '.join(fitting_likelihoods(config, dataset))}"


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
    return Run(run.path, run.config.model_copy(update={"data": data}), run.model)


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
            [name, *(_cell(values[row]) for values in table.values())]
            for row in range(count)
            for name, table in decoded.items()
        ]
        write_csv(out, ["array", *(column.name for column in columns)], rows)
    else:
        from flowvae.figures import save_figure

        save_figure(draw(images), out)


def _cell(value: Any) -> Any:
    return f"{value:.7g}" if isinstance(value, float) else value  # what float32 knows


def _timed(action: Any) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start

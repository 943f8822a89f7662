"""Evaluating runs and comparing them, as one call each."""

from __future__ import annotations

from pathlib import Path

from flowvae import processes
from flowvae.data.conditions import check_known
from flowvae.errors import UserError
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
from flowvae.progress import Progress
from flowvae.runs import Run, RunLike, opened

__all__ = ["compare", "evaluate", "evaluate_full"]


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
    with processes.joined():
        run = processes.together(lambda: opened(run, device, data))
        return _evaluate(run, samples, seed, refine, progress)


def _evaluate(
    run: Run, samples: int | None, seed: int | None, refine: int, progress: bool
) -> Evaluation:
    config, dataset = run.config, run.dataset
    samples = config.evaluation.samples if samples is None else samples
    if samples < 1:
        raise UserError(f"samples: expected at least 1, got {samples}")
    if refine < 0:
        raise UserError(f"refine: expected at least 0, got {refine}")
    check_known(dataset.test, "test")
    total = len(dataset.test) * (2 if refine else 1)
    shown = progress and processes.is_first()
    with Progress.bar("evaluating", total, enabled=shown) as advance:
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

    with processes.joined():
        run = processes.together(lambda: opened(run, device, data))
        model, dataset = run.model, run.dataset
        seed = run.config.seed if seed is None else seed
        check_known(dataset.test, "test")
        first = processes.is_first()
        found = run_full_evaluation(
            model,
            dataset,
            run.path / "evaluation",
            settings or FullSettings(),
            seed=seed,
            bar=lambda total: Progress.bar("evaluating", total, enabled=progress and first),
        )
    if not first:
        return found
    write_json(run.path / "evaluation" / "full.json", found.summary)
    write_text(
        run.path / "evaluation" / "full.md", full_markdown(found.summary, run.path.resolve().name)
    )
    z, _ = encode_split(model, dataset.test, run.generator(seed))
    picture = evaluation_figure(found, model, z, dataset.test.condition)
    save_figure(picture, run.figures / "evaluation.png")
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
    check_known(shown[0].dataset.test, "test")
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

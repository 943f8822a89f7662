"""FlowImputer beside scikit-learn's imputers, and what ``missing=model`` is worth.

    python -m benchmarks.imputation [--seeds N] [--quick] [--only tables|ways|not_at_random]
    python -m benchmarks.imputation --picture

On three tables that scikit-learn ships, a fifth of the values is taken away at random and filled in
again; and then large values are taken away more often than small ones. The settings of
``FlowImputer`` were chosen on masks of other seeds than those reported. Figures go to
``docs/results/imputation.json`` and tables into ``docs/missing.md``; with ``--quick`` to
``runs/bench-quick`` alone. ``--picture`` trains on MNIST with squares missing and draws
``docs/images/imputation.png``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import replace_between
from flowvae.device import machine

ROOT = Path(__file__).parents[1]
MISSING = 0.2
WAYS_SEEDS = 3
OFFSET, SLOPE = -1.5, 2.5  # of what is missing not at random: p(missing | x) = σ(-1.5 + 2.5 x)
SAMPLES = 1000  # of z, for log p(x_obs)
IMPUTERS = ("SimpleImputer", "IterativeImputer", "FlowImputer")
# Where large values are missing more often; "sex" has two values, which no Gaussian fits.
NOT_AT_RANDOM = {"wine": None, "diabetes": None, "diabetes without sex": 1}
NAMES = {"diabetes": "R²", "breast_cancer": "accuracy", "wine": "accuracy"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed, an epoch, kept apart")
    parser.add_argument("--only", choices=("tables", "ways", "not_at_random"), help="this part")
    parser.add_argument("--picture", action="store_true", help="only the picture of the document")
    options = parser.parse_args()
    if options.picture:
        picture()
        return
    seeds = range(1 if options.quick else options.seeds)
    docs = ROOT / "runs" / "bench-quick" if options.quick else ROOT / "docs"
    kept = docs / "results" / "imputation.json"
    found: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    few = min(len(seeds), WAYS_SEEDS)
    for part, of_one_mask, names, count in (
        ("tables", _of_one_mask, NAMES, len(seeds)),
        ("ways", _ways, NAMES, few),
        ("not_at_random", _not_at_random, NOT_AT_RANDOM, few),
    ):
        if options.only not in (None, part):
            continue
        about: dict[str, Any] = {"date": date.today().isoformat(), "machine": machine()}
        found[part] = about | {"quick": options.quick, "masks": count}
        for name in names:
            each = [of_one_mask(name, seed, options.quick) for seed in seeds[:count]]
            found[part][name] = {
                who: {what: [one[who][what] for one in each] for what in each[0][who]}
                for who in each[0]
            }
            print(name, json.dumps(found[part][name]), flush=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for part, (mark, table) in WRITTEN.items():
        if part in found:
            print(table(found[part]), end="\n\n")
            if not options.quick:
                replace_between(docs / "missing.md", mark, table(found[part]))


def _table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardised values (N, P), and what is to be predicted."""
    from sklearn import datasets

    data: Any = getattr(datasets, f"load_{name}")()
    return (data.data - data.data.mean(0)) / data.data.std(0), data.target


def _of_one_mask(name: str, seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """Who -> what -> figure."""
    X, y = _table(name)
    gaps = np.random.default_rng(seed).random(X.shape) < MISSING
    holes = np.where(gaps, np.nan, X)
    found: dict[str, dict[str, float]] = {}
    for who, imputer in _imputers(seed, quick).items():
        filled = imputer.fit(holes).transform(holes)
        found[who] = {"rmse": _rmse(filled, X, gaps), "downstream": _downstream(filled, y, name)}
        if who == "FlowImputer":
            for share in (0.5, 0.9):
                ends = imputer.impute(holes, interval=share)
                inside = (ends.low <= X) & (ends.high >= X)
                found[who][f"coverage_{share}"] = float(inside[gaps].mean())
            draws = imputer.impute(holes, draws=1).draws[0]
            found[who]["draw_rmse"] = _rmse(draws, X, gaps)
            found[who]["effective_samples"] = float(
                np.nanmedian(imputer.impute(holes).effective_samples)
            )
    found["whole"] = {"downstream": _downstream(X, y, name)}
    return found


def _not_at_random(name: str, seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """Who -> what -> figure, where large values are missing more often."""
    from flowvae import FlowImputer
    from flowvae.imputer import default_estimator

    X, _ = _table(name.split()[0])
    left_out = NOT_AT_RANDOM[name]
    X = X if left_out is None else np.delete(X, left_out, 1)
    p = 1 / (1 + np.exp(-(OFFSET + SLOPE * X)))
    gaps = np.random.default_rng(seed).random(X.shape) < p
    holes = np.where(gaps, np.nan, X)
    imputers = _imputers(seed, quick)
    learner: Any = default_estimator().set_params(**({"epochs": 1} if quick else {}))
    learner.set_params(settings={**learner.settings, "missingness": "self_masking"})
    imputers["self_masking"] = FlowImputer(learner, random_state=seed)
    found: dict[str, dict[str, float]] = {}
    for who, imputer in imputers.items():
        filled = imputer.fit(holes).transform(holes)
        errors = (filled - X)[gaps]
        found[who] = {"rmse": _rmse(filled, X, gaps), "mean_error": float(errors.mean())}
        if isinstance(imputer, FlowImputer):
            ends = imputer.impute(holes, interval=0.9)
            inside = (ends.low <= X) & (ends.high >= X)
            found[who]["coverage_0.9"] = float(inside[gaps].mean())
    found["missing"] = {"share": float(gaps.mean())}
    return found


def _ways(name: str, seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """Way to train -> what -> figure, on held-out rows."""
    X, _ = _table(name)
    gaps = np.random.default_rng(seed).random(X.shape) < MISSING
    holes = np.where(gaps, np.nan, X)
    found: dict[str, dict[str, float]] = {}
    train = np.random.default_rng([seed, 1]).random(len(X)) < 0.8
    for who, filling in (("impute", True), ("model", False), ("model_elbo", False)):
        found[who] = _held_out(holes, X, gaps, train, (filling, who, seed, quick))
    return found


def _imputers(seed: int, quick: bool) -> dict[str, Any]:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401  # pyright: ignore
    from sklearn.impute import IterativeImputer, SimpleImputer

    from flowvae import FlowImputer
    from flowvae.imputer import default_estimator

    warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
    learner = default_estimator().set_params(**({"epochs": 1} if quick else {}))
    return {
        "SimpleImputer": SimpleImputer(),
        "IterativeImputer": IterativeImputer(max_iter=20, random_state=seed),
        "FlowImputer": FlowImputer(learner, random_state=seed),
    }


def _rmse(filled: np.ndarray, X: np.ndarray, gaps: np.ndarray) -> float:
    return float(np.sqrt(((filled - X)[gaps] ** 2).mean()))


def _downstream(filled: np.ndarray, y: np.ndarray, name: str) -> float:
    """Five-fold R² of ridge regression, or accuracy of logistic regression."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold, cross_val_score

    learner: Any = Ridge() if NAMES[name] == "R²" else LogisticRegression(max_iter=1000)
    folds = KFold(5, shuffle=True, random_state=0)
    return float(cross_val_score(learner, filled, y, cv=folds).mean())


def _held_out(
    holes: np.ndarray,
    X: np.ndarray,
    gaps: np.ndarray,
    train: np.ndarray,
    how: tuple[bool, str, int, bool],
) -> dict[str, float]:
    """Log p(x_obs) and RMSE of held-out rows, by a model that learns from filled rows or from gaps.

    Both are by importance sampling from q, which changes their variance and not what they are of:
    the decoder that was learned.
    """
    from flowvae.imputer import default_estimator

    filling, who, seed, quick = how
    means = np.nanmean(holes[train], 0)
    seen = np.where(gaps, means, holes) if filling else holes
    learner: Any = default_estimator().set_params(random_state=seed)
    if who == "model_elbo":
        settings = {**learner.settings, "objective": "elbo"}
        settings = {k: v for k, v in settings.items() if k != "objective.samples"}
        learner.set_params(settings=settings)
    if filling:
        learner.set_params(missing="refuse")
    learner.set_params(**({"epochs": 1} if quick else {})).fit(seen[train])
    log_p, filled = _marginal(learner, seen[~train], holes[~train])
    return {"log_p": log_p, "rmse": _rmse(filled, X[~train], gaps[~train])}


@torch.no_grad()
def _marginal(learner: Any, seen: np.ndarray, holes: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean of log p(x_obs) in the data's units, and E[x | x_obs]; q is given what is seen."""
    from flowvae.data.scaling import ColumnScaler
    from flowvae.evaluation.common_noise import common_draws
    from flowvae.likelihoods import observed_log_prob

    scaler, model = ColumnScaler(learner.columns_), learner.model_
    z, log_q = common_draws(model, scaler.encode(seen, np.float32), SAMPLES, 0)
    p = model.decode(z)
    log_weight = model.prior().log_prob(z) - log_q
    log_weight += observed_log_prob(p, scaler.encode(holes, np.float32))
    log_p = (log_weight.logsumexp(0) - math.log(SAMPLES)).double().numpy()
    log_p -= ((~np.isnan(holes)) * np.log(scaler.scale)).sum(1)
    mean = torch.einsum("sb,sbp->bp", log_weight.softmax(0), p.mean)
    return float(log_p.mean()), scaler.decode(mean)


def imputation_table(found: dict[str, Any]) -> str:
    """The imputers beside each other, as Markdown."""
    lines = ["| table | imputer | RMSE | 50% intervals cover | 90% intervals cover | downstream |"]
    lines += ["|---|---|---|---|---|---|"]
    for name in NAMES:
        for who in (*IMPUTERS, "whole"):
            figures = found[name][who]
            shown = [_shown(figures.get(k)) for k in ("rmse", "coverage_0.5", "coverage_0.9")]
            shown.append(f"{_shown(figures['downstream'])} {NAMES[name]}")
            label = "nothing missing" if who == "whole" else who
            lines.append(f"| {name} | {label} | {' | '.join(shown)} |")
    lines += ["", _paired(found), "", f"{AT_RANDOM}; {_how(found)}"]
    return "\n".join(lines)


def _paired(found: dict[str, Any]) -> str:
    """Of RMSE by the same masks: what a table's two means and their errors do not show."""
    shown = []
    for name in NAMES:
        of = found[name]
        pairs = zip(of["FlowImputer"]["rmse"], of["IterativeImputer"]["rmse"], strict=True)
        less = [ours - theirs for ours, theirs in pairs]
        better = f"lower on {sum(each < 0 for each in less)} of {len(less)} masks"
        shown.append(f"{name} {_shown(less)} ({better})")
    return f"RMSE of FlowImputer less that of IterativeImputer, mask by mask: {'; '.join(shown)}."


def model_table(found: dict[str, Any]) -> str:
    """``missing=impute`` and ``missing=model``, as Markdown."""
    lines = ["| table | trained with | log p(x_obs), nats a row | RMSE |", "|---|---|---|---|"]
    labels = {
        "impute": "`missing=impute`",
        "model": "`missing=model`, `iwae`",
        "model_elbo": "`missing=model`, `elbo`",
    }
    for name in NAMES:
        for who, label in labels.items():
            figures = found[name][who]
            shown = f"{_shown(figures['log_p'], 2)} | {_shown(figures['rmse'])}"
            lines.append(f"| {name} | {label} | {shown} |")
    lines += ["", f"A fifth of the rows held out. {AT_RANDOM}; {_how(found)}"]
    return "\n".join(lines)


def not_at_random_table(found: dict[str, Any]) -> str:
    """Where large values are missing more often, as Markdown."""
    lines = [
        "| table | imputer | RMSE | mean error | 90% intervals cover |",
        "|---|---|---|---|---|",
    ]
    labels = {who: who for who in IMPUTERS} | {"self_masking": "FlowImputer, `self_masking`"}
    for name in NOT_AT_RANDOM:
        for who, label in labels.items():
            figures = found[name][who]
            shown = [_shown(figures.get(k)) for k in ("rmse", "mean_error", "coverage_0.9")]
            lines.append(f"| {name} | {label} | {' | '.join(shown)} |")
    shares = [statistics.mean(found[name]["missing"]["share"]) for name in NOT_AT_RANDOM]
    lines += [
        "",
        f"A value x, in deviations of its column, is missing with probability σ({OFFSET:g} + "
        f"{SLOPE:g} x): {min(shares):.0%} to {max(shares):.0%} of all; {_how(found)}",
    ]
    return "\n".join(lines)


AT_RANDOM = f"{MISSING:.0%} of the values missing completely at random"
WRITTEN = {
    "tables": ("imputation", imputation_table),
    "ways": ("imputation-model", model_table),
    "not_at_random": ("imputation-not-at-random", not_at_random_table),
}


def _shown(values: list[float] | None, digits: int = 3) -> str:
    if values is None:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def _how(found: dict[str, Any]) -> str:
    return (
        f"mean ± standard error over {found['masks']} masks. {found['machine']}, {found['date']}. "
        "Made by `python -m benchmarks.imputation`."
    )


def picture() -> None:
    """Training on MNIST with squares missing, and test images filled in."""
    import tempfile

    import flowvae
    from flowvae.data import load_dataset

    dataset = load_dataset("mnist", "threshold")
    with tempfile.TemporaryDirectory() as folder:
        train = _with_squares(dataset.train.values(slice(20_000)).numpy(), 0, share=0.5)
        np.save(f"{folder}/train.npy", train)
        settings: Any = {"latent_dim": 20, "missing": "model", "evaluation_samples": 1}
        run = flowvae.train(
            "best", data=f"{folder}/train.npy", out=f"{folder}/run", epochs=20, **settings
        )
        test = _with_squares(dataset.test.values(slice(8)).numpy(), 1, share=1.0)
        flowvae.impute(run, test, draws=3, out=ROOT / "docs" / "images" / "imputation.png")


def _with_squares(x: np.ndarray, seed: int, share: float) -> np.ndarray:
    """Images with a square of 12 × 12 missing in some of them."""
    images = x.reshape(-1, 28, 28).copy()
    random = np.random.default_rng(seed)
    for image in images:
        row, column = random.integers(2, 15, 2)
        if random.random() < share:
            image[row : row + 12, column : column + 12] = np.nan
    return images


if __name__ == "__main__":
    main()

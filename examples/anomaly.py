"""Anomaly scores on a real table: FlowVAE beside IsolationForest and PCA.

The table is scikit-learn's breast cancer data: 569 tumours, 30 measurements each. Each method is
fitted on benign tumours alone and then ranks benign ones it has not seen and all malignant ones;
ROC AUC says how well malignant ones come first. No method is tuned on the labels.

    python -m examples.anomaly             # 5 seeds, about a minute
    python -m examples.anomaly --seeds 10 --write    also into docs/estimator.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.report import replace_between
from flowvae import FlowVAE

LATENT_DIM = 5


def flow_vae(train: np.ndarray, seed: int, **settings) -> Callable[[np.ndarray], np.ndarray]:
    """-log p(x), by the importance-weighted bound."""
    model = FlowVAE(
        latent_dim=LATENT_DIM, epochs=300, learning_rate=2e-3, random_state=seed, **settings
    ).fit(train)
    return lambda X: -model.score_samples(X)


def isolation_forest(train: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    model = IsolationForest(random_state=seed).fit(train)
    return lambda X: -model.score_samples(X)


def pca(train: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Squared error of reconstruction, in standardised units."""
    scaler = StandardScaler().fit(train)
    model = PCA(LATENT_DIM, random_state=seed).fit(scaler.transform(train))

    def score(X: np.ndarray) -> np.ndarray:
        scaled = scaler.transform(X)
        return ((scaled - model.inverse_transform(model.transform(scaled))) ** 2).sum(1)

    return score


def one_gaussian(train: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """-log p(x) of a single Gaussian with full covariance: the density to beat."""
    model = make_pipeline(StandardScaler(), GaussianMixture(random_state=seed)).fit(train)
    return lambda X: -model.score_samples(X)


METHODS = {
    "FlowVAE, 16 planar flows": flow_vae,
    "FlowVAE, no flows": lambda train, seed: flow_vae(train, seed, num_flows=0),
    "IsolationForest": isolation_forest,
    "PCA reconstruction error": pca,
    "one Gaussian": one_gaussian,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="also into docs/estimator.md")
    arguments = parser.parse_args()
    seeds = arguments.seeds
    X, benign = load_breast_cancer(return_X_y=True)
    benign = benign == 1
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    for seed in range(seeds):
        train, rest = train_test_split(X[benign], test_size=0.4, random_state=seed)
        data = np.concatenate([rest, X[~benign]])
        malignant = np.arange(len(data)) >= len(rest)
        for name, fit in METHODS.items():
            found[name].append(float(roc_auc_score(malignant, fit(train, seed)(data))))
    lines = ["| method | ROC AUC | by seed |", "|---|---|---|"]
    for name, values in found.items():
        error = np.std(values, ddof=1) / np.sqrt(seeds) if seeds > 1 else float("inf")
        each = ", ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {np.mean(values):.3f} ± {error:.3f} | {each} |")
    lines.append(
        f"\nROC AUC of malignant against unseen benign tumours, mean ± standard error over {seeds} "
        f"splits and seeds. Made by `python -m examples.anomaly --seeds {seeds} --write`."
    )
    print("\n".join(lines))
    if arguments.write:
        replace_between(Path("docs/estimator.md"), "anomaly", "\n".join(lines))


if __name__ == "__main__":
    main()

"""A search over learning rates and numbers of flows that gives up early on what does badly.

pip install flowvae optuna
python -m examples.optuna_search
"""

from __future__ import annotations

from typing import Any

import optuna

import flowvae


def search(trials: int = 20, **settings: Any) -> optuna.Study:
    """Maximise the validation ELBO of preset ``planar``, with ``settings`` in place of its own."""

    def objective(trial: optuna.Trial) -> float:
        pruned = False

        def report(_run: Any, row: dict[str, float], _model: Any) -> bool:
            nonlocal pruned
            trial.report(row["validation_elbo"], int(row["epoch"]))
            pruned = trial.should_prune()
            return pruned  # True ends this training

        suggested = {
            "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
            "num_flows": trial.suggest_int("num_flows", 1, 32, log=True),
            "validation_fraction": 0.1,
            "epochs": 10,
            "out": f"runs/search/{trial.number}",
        }
        run = flowvae.train(
            "planar", **{**suggested, **settings}, on_epoch=report, finish=False, progress=False
        )
        if pruned:
            raise optuna.TrialPruned
        return run.metrics[-1]["validation_elbo"]

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
    study.optimize(objective, n_trials=trials)
    return study


if __name__ == "__main__":
    found = search()
    print(found.best_params, found.best_value)

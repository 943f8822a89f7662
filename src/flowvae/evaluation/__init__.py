"""How good a model is: the ELBO, its terms, bounds and integrals of log p(x)."""

from flowvae.evaluation.estimates import (
    Estimate,
    Evaluation,
    encode_split,
    evaluate_model,
    per_datum,
)
from flowvae.evaluation.grid import grid_log_joint, grid_log_prob, uniform_grid

__all__ = [
    "Estimate",
    "Evaluation",
    "encode_split",
    "evaluate_model",
    "grid_log_joint",
    "grid_log_prob",
    "per_datum",
    "uniform_grid",
]

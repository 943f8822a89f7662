"""How good a model is: the ELBO, its terms, bounds and integrals of log p(x)."""

from flowvae.evaluation.estimates import (
    Estimate,
    Evaluation,
    encode_split,
    evaluate_model,
    per_datum,
)
from flowvae.evaluation.grid import grid_log_joint, grid_log_prob, uniform_grid
from flowvae.evaluation.importance import importance_sampling, pareto_k, reliable_pareto_k
from flowvae.evaluation.quadrature import Quadrature, quadrature

__all__ = [
    "Estimate",
    "Evaluation",
    "Quadrature",
    "encode_split",
    "evaluate_model",
    "grid_log_joint",
    "grid_log_prob",
    "importance_sampling",
    "pareto_k",
    "per_datum",
    "quadrature",
    "reliable_pareto_k",
    "uniform_grid",
]

"""How good a model is: the ELBO, its terms, bounds and integrals of log p(x)."""

from flowvae.evaluation.ais import Annealed, Sandwich, annealed_importance_sampling, bdmc
from flowvae.evaluation.diagnostics import Information, active_units, mutual_information
from flowvae.evaluation.estimates import (
    Estimate,
    Evaluation,
    encode_split,
    evaluate_model,
    per_datum,
)
from flowvae.evaluation.gaps import fit_posterior, inference_gaps
from flowvae.evaluation.grid import grid_log_joint, grid_log_prob, uniform_grid
from flowvae.evaluation.importance import importance_sampling, pareto_k, reliable_pareto_k
from flowvae.evaluation.quadrature import Quadrature, quadrature

__all__ = [
    "Annealed",
    "Estimate",
    "Evaluation",
    "Information",
    "Quadrature",
    "Sandwich",
    "active_units",
    "annealed_importance_sampling",
    "bdmc",
    "encode_split",
    "evaluate_model",
    "fit_posterior",
    "grid_log_joint",
    "grid_log_prob",
    "importance_sampling",
    "inference_gaps",
    "mutual_information",
    "pareto_k",
    "per_datum",
    "quadrature",
    "reliable_pareto_k",
    "uniform_grid",
]

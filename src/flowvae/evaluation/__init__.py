"""How good a model is: the ELBO, its terms, bounds and integrals of log p(x)."""

from flowvae.evaluation.ais import Annealed, Sandwich, annealed_importance_sampling, bdmc
from flowvae.evaluation.cached import data_digest, model_digest
from flowvae.evaluation.compare import Comparison, check_comparable, compare_values
from flowvae.evaluation.diagnostics import Information, active_units, mutual_information
from flowvae.evaluation.estimates import (
    Estimate,
    Evaluation,
    encode_split,
    evaluate_model,
    per_datum,
)
from flowvae.evaluation.full import (
    FullEvaluation,
    evaluate_full,
    importance_estimate,
)
from flowvae.evaluation.gaps import fit_posterior, inference_gaps
from flowvae.evaluation.grid import grid_log_joint, grid_log_prob, uniform_grid
from flowvae.evaluation.importance import importance_sampling, pareto_k, reliable_pareto_k
from flowvae.evaluation.markdown import full_markdown, on_screen
from flowvae.evaluation.mixture_sampling import mixture_importance_sampling
from flowvae.evaluation.quadrature import Quadrature, quadrature
from flowvae.evaluation.settings import FullSettings
from flowvae.evaluation.summary import bits_per_dim

__all__ = [
    "Annealed",
    "Comparison",
    "Estimate",
    "Evaluation",
    "FullEvaluation",
    "FullSettings",
    "Information",
    "Quadrature",
    "Sandwich",
    "active_units",
    "annealed_importance_sampling",
    "bdmc",
    "bits_per_dim",
    "check_comparable",
    "compare_values",
    "data_digest",
    "encode_split",
    "evaluate_full",
    "evaluate_model",
    "fit_posterior",
    "full_markdown",
    "grid_log_joint",
    "grid_log_prob",
    "importance_estimate",
    "importance_sampling",
    "inference_gaps",
    "mixture_importance_sampling",
    "model_digest",
    "mutual_information",
    "on_screen",
    "pareto_k",
    "per_datum",
    "quadrature",
    "reliable_pareto_k",
    "uniform_grid",
]

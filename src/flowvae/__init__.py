"""Variational autoencoders whose posterior is bent by normalizing flows.

Names are imported when first used, so that ``import flowvae`` and ``flowvae --help`` are quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowvae.api import draw_figures, resume, train
    from flowvae.building import build_vae
    from flowvae.classification import classify
    from flowvae.classifier import FlowVAEClassifier
    from flowvae.config import PRESETS, Config, load_config, preset
    from flowvae.errors import TrainingError, UserError
    from flowvae.estimator import FlowVAE
    from flowvae.evaluating import compare, evaluate, evaluate_full
    from flowvae.explorer.explore import explore
    from flowvae.exporting import export
    from flowvae.hub.pushing import push
    from flowvae.imputer import FlowImputer
    from flowvae.imputing import impute
    from flowvae.outputs import encode, reconstruct, sample
    from flowvae.reproduction.reproduce import reproduce
    from flowvae.runs import Run, load, open_run
    from flowvae.terms import ElboTerms
    from flowvae.traversal import interpolate, traverse
    from flowvae.vae import VAE

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "VAE",
    "Config",
    "ElboTerms",
    "FlowImputer",
    "FlowVAE",
    "FlowVAEClassifier",
    "Run",
    "TrainingError",
    "UserError",
    "build_vae",
    "classify",
    "compare",
    "draw_figures",
    "encode",
    "evaluate",
    "evaluate_full",
    "explore",
    "export",
    "impute",
    "interpolate",
    "load",
    "load_config",
    "open_run",
    "preset",
    "push",
    "reconstruct",
    "reproduce",
    "resume",
    "sample",
    "train",
    "traverse",
]

_HOME = {
    **dict.fromkeys(["draw_figures", "resume", "train"], "flowvae.api"),
    **dict.fromkeys(["PRESETS", "Config", "load_config", "preset"], "flowvae.config"),
    **dict.fromkeys(["TrainingError", "UserError"], "flowvae.errors"),
    "classify": "flowvae.classification",
    "FlowVAEClassifier": "flowvae.classifier",
    "FlowImputer": "flowvae.imputer",
    "impute": "flowvae.imputing",
    "FlowVAE": "flowvae.estimator",
    **dict.fromkeys(["compare", "evaluate", "evaluate_full"], "flowvae.evaluating"),
    "explore": "flowvae.explorer.explore",
    "export": "flowvae.exporting",
    "push": "flowvae.hub.pushing",
    **dict.fromkeys(["encode", "reconstruct", "sample"], "flowvae.outputs"),
    "reproduce": "flowvae.reproduction.reproduce",
    **dict.fromkeys(["Run", "load", "open_run"], "flowvae.runs"),
    **dict.fromkeys(["interpolate", "traverse"], "flowvae.traversal"),
    "build_vae": "flowvae.building",
    "ElboTerms": "flowvae.terms",
    "VAE": "flowvae.vae",
}


_SUBPACKAGES = {"data", "distributions", "evaluation", "figures", "flows", "objectives", "training"}


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return import_module(f"flowvae.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'flowvae' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""The description of an experiment: sections, families' options, presets, YAML both ways."""

from flowvae.config.files import load_config, outside_modules, preset, resolve_config
from flowvae.config.options import Options, Part, build
from flowvae.config.presets import PRESETS
from flowvae.config.sections import (
    Config,
    DataSection,
    EvaluationSection,
    ModelSection,
    TrainingSection,
    layered,
)

__all__ = [
    "PRESETS",
    "Config",
    "DataSection",
    "EvaluationSection",
    "ModelSection",
    "Options",
    "Part",
    "TrainingSection",
    "build",
    "layered",
    "load_config",
    "outside_modules",
    "preset",
    "resolve_config",
]

"""One typed description of an experiment: every field is a flag, a YAML key and a default.

Must not import torch: the command line reads this file to answer ``--help``.
"""

from __future__ import annotations

import math
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from flowvae.errors import UserError, first_complaint, shown
from flowvae.registry import LIKELIHOODS, NETWORKS, OBJECTIVES, POSTERIORS, PRIORS, Registry

__all__ = ["PRESETS", "Config", "load_config", "preset", "resolve_config"]

# No use has larger ones, and memory is not asked for by a number that nobody checked.
_MOST = 10**9
PositiveInt = Annotated[int, Field(ge=1, le=_MOST)]


class Config(BaseModel):
    """An experiment: model, data and training.

    The defaults are the preset ``original``: the settings of the starting text.

    Examples:
        >>> from flowvae import Config
        >>> Config(num_flows=16, constraint="centred").latent_dim
        2
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    version: Literal[1] = Field(1, description="Version of this description.")
    preset: str = Field("original", description="The preset that the other values started from.")

    # The model
    latent_dim: PositiveInt = Field(2, description="D, the number of latent dimensions.")
    num_flows: int = Field(
        3, ge=0, le=100_000, description="K, the number of flows; 0 is a plain Gaussian."
    )
    constraint: Literal["paper", "centred"] = Field(
        "paper", description="How a planar flow is kept invertible: m(a) of the paper, or centred."
    )
    amortized: bool = Field(
        True, description="Flow parameters written by the encoder; if false, shared by all data."
    )
    num_orthogonal: PositiveInt = Field(
        8, description="Of sylvester_orthogonal: M, orthonormal directions per flow; at most D."
    )
    num_householder: PositiveInt = Field(
        8, description="Of sylvester_householder: H, reflections per flow."
    )
    flow_hidden_dims: tuple[PositiveInt, ...] = Field(
        (128,),
        min_length=1,
        description="Of iaf, coupling, spline and the flow prior: widths of a flow's network.",
    )
    num_components: PositiveInt = Field(
        100, description="Of gaussian_mixture and vampprior: components, or pseudo-inputs."
    )
    num_prior_flows: int = Field(
        8, ge=0, le=100_000, description="Of the flow prior: K, its number of flows."
    )
    sigma: str | float = Field(
        "learned",
        description="Of the gaussian likelihood: a number; learned, one for all values; or "
        "per_pixel, written by the decoder for each value.",
    )
    num_mixtures: PositiveInt = Field(
        5, description="Of logistic_mixture: logistics per value of a datum."
    )
    num_categories: int = Field(
        10,
        ge=2,
        le=_MOST,
        description="Of the categorical likelihood: values are 0 … num_categories - 1.",
    )
    activation: Literal["relu", "elu", "gelu", "silu", "tanh", "leaky_relu"] = Field(
        "relu", description="Of the networks' hidden layers."
    )
    gated: bool = Field(
        False, description="Of mlp: hidden layers are (Wx + c) · sigmoid(Vx + d), not activation."
    )
    channels: tuple[PositiveInt, ...] = Field(
        (),
        description="Of gated_conv and resnet: channels of the encoder's convolutions; the "
        "network's own if not given.",
    )
    hidden_dims: tuple[PositiveInt, ...] = Field(
        (500,),
        min_length=1,
        description="Widths of the encoder's hidden layers; the decoder's in reverse.",
    )
    posterior: str = Field("planar", description="Family of q(z|x).")
    prior: str = Field("standard_normal", description="Family of p(z).")
    likelihood: str = Field("bernoulli", description="Family of p(x|z).")
    network: str = Field("mlp", description="Family of the encoder and decoder bodies.")

    init_output_bias: bool = Field(
        False, description="Start the decoder at the mean of the training data."
    )

    # The data
    data: str = Field(
        "mnist",
        description="'mnist' (bundled), an IDX file or a folder of them, a .npy or .npz file, a "
        ".csv or .parquet table, a folder of pictures, or hf:NAME.",
    )
    binarization: Literal["none", "dynamic", "static", "threshold"] = Field(
        "none",
        description="none: grey pixels, a pseudo-likelihood; dynamic: a fresh draw at each use; "
        "static: one fixed draw; threshold: x >= 1/2.",
    )
    test_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share held out, by seed, when the data names no test set."
    )
    validation_fraction: float = Field(
        0.0, ge=0, lt=1, description="Share of the training data held out, by seed, to decide by."
    )
    label_column: str | None = Field(
        None, description="Column of a table, or array of a .npz, that is a label and no feature."
    )
    categorical_columns: tuple[str, ...] = Field(
        (), description="Columns of a table whose numbers are names of categories."
    )
    drop_columns: tuple[str, ...] = Field((), description="Columns of a table to leave out.")
    missing: Literal["refuse", "impute"] = Field(
        "refuse",
        description="Where a table has no value: refuse it; or impute the column's mean, or its "
        "most frequent category, of the training data.",
    )
    scaling: Literal["auto", "none", "standard"] = Field(
        "auto",
        description="standard: each value of an array (N, P) has mean 0 and deviation 1 on the "
        "training data; auto: only columns of numbers in tables.",
    )
    image_size: tuple[PositiveInt, ...] = Field(
        (), max_length=2, description="Height and width to which pictures in folders are resized."
    )
    memory_budget: float = Field(
        1.0, gt=0, description="In GiB; a larger array stays in its file and is read as needed."
    )

    # The objective
    objective: str = Field(
        "elbo", description="What is maximised, and by which estimator of its gradient."
    )
    samples: PositiveInt = Field(1, description="S, draws of z per datum in training.")
    beta: float = Field(1.0, ge=0, description="Weight of the KL; 1 is the ELBO.")
    free_bits: float = Field(
        0.0,
        ge=0,
        description="Nats of KL per datum, mean over the batch, that are free.",
    )
    warmup: Literal["none", "kl", "tempering"] = Field(
        "none",
        description="What grows from warmup_start to 1: the KL's weight, or that of log p(x, z).",
    )
    warmup_start: float = Field(0.01, ge=0, le=1, description="The weight at the first step.")
    warmup_epochs: float = Field(100.0, gt=0, description="Length of the warm-up in epochs.")
    warmup_steps: PositiveInt | None = Field(
        None, description="Its length in steps, instead of epochs."
    )

    # Training
    epochs: PositiveInt = Field(100, description="Passes over the training data.")
    batch_size: PositiveInt = Field(100, description="Data per step.")
    learning_rate: float = Field(1e-3, gt=0, description="Of Adam.")
    weight_decay: float = Field(1e-5, ge=0, description="Of Adam, an L2 penalty.")
    schedule: Literal["constant", "cosine", "step"] = Field(
        "constant", description="How the learning rate changes; cosine falls to zero."
    )
    schedule_epochs: PositiveInt = Field(30, description="Epochs to a step of schedule=step.")
    schedule_factor: float = Field(
        0.1, gt=0, le=1, description="What each step of schedule=step multiplies by."
    )
    accumulate: PositiveInt = Field(1, description="Batches whose mean gradient makes one update.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Of the networks' matrix products; flows and densities stay in float32.",
    )
    patience: PositiveInt | None = Field(
        None,
        description="Stop after so many epochs without a better ELBO on the validation data, and "
        "keep the best model; needs validation_fraction.",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Of PyTorch on the CPU; its own choice if not given."
    )
    max_grad_norm: float | None = Field(
        None, gt=0, description="Clip the gradient to this norm; not clipped if not given."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of weights, batches, noise and splits.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    evaluation_samples: PositiveInt = Field(
        200, description="Samples of z per test datum in the evaluation after training."
    )

    @field_validator("posterior", "prior", "likelihood", "network", "objective")
    @classmethod
    def _registered(cls, name: str, info: Any) -> str:
        registry = FAMILIES[info.field_name]
        if name not in registry:
            raise ValueError(f"expected one of {', '.join(registry)}, got {name!r}")
        return name

    @field_validator("free_bits")
    @classmethod
    def _has_a_kl(cls, nats: float, info: Any) -> float:
        if nats > 0 and (objective := info.data.get("objective")) in ("iwae", "dreg"):
            raise ValueError(f"expected 0 with objective {objective}, which has no KL, got {nats}")
        return nats

    @field_validator("image_size")
    @classmethod
    def _image_size(cls, size: tuple[int, ...]) -> tuple[int, ...]:
        if len(size) == 1:
            raise ValueError(f"expected a height and a width, got {size[0]}")
        return size

    @field_validator("sigma")
    @classmethod
    def _sigma(cls, value: str | float) -> str | float:
        if value in ("learned", "per_pixel"):
            return value
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise ValueError(f"expected learned, per_pixel or a number > 0, got {shown(value)}")
        return number

    @field_validator("device")
    @classmethod
    def _device(cls, name: str) -> str:
        kind, _, index = name.partition(":")
        if kind not in ("auto", "cpu", "cuda", "mps") or (":" in name and not index.isdigit()):
            raise ValueError(f"expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
        return name

    def to_yaml(self) -> str:
        """Write it as YAML that :func:`load_config` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


# The fields that say what the data is and how it is read.
DATA_FIELDS = frozenset(
    (
        *("data", "binarization", "test_fraction", "validation_fraction", "seed"),
        *("label_column", "categorical_columns", "drop_columns", "missing", "scaling"),
        *("image_size", "memory_budget"),
    )
)

FAMILIES: dict[str, Registry] = {
    "posterior": POSTERIORS,
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "network": NETWORKS,
    "objective": OBJECTIVES,
}

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "original": ("The starting text's settings: planar flows, K = 3, paper constraint.", {}),
    "gaussian": ("The same with a plain Gaussian posterior, K = 0.", {"num_flows": 0}),
    "planar": (
        "The same with K = 16, centred constraint and gradients clipped to 50.",
        {"num_flows": 16, "constraint": "centred", "max_grad_norm": 50.0},
    ),
}


def resolve_config(**overrides: Any) -> Config:
    """A preset with some fields replaced, checked.

    Raises:
        UserError: a field is unknown or its value out of range; one line that names it.
    """
    name = overrides.get("preset", "original")
    if not isinstance(name, str) or name not in PRESETS:
        raise UserError(f"preset: expected one of {', '.join(PRESETS)}, got {shown(name)}")
    for field in overrides:
        if field not in Config.model_fields:
            raise UserError(f"{field}: no such field{_nearest(field)}")
    try:
        return Config(**{"preset": name, **PRESETS[name][1], **overrides})
    except ValidationError as error:
        raise UserError(": ".join(first_complaint(error))) from None


def preset(name: str) -> Config:
    """A preset by name, such as ``original``, ``gaussian`` or ``planar``."""
    return resolve_config(preset=name)


def load_config(path: str | Path, **overrides: Any) -> Config:
    """Read a YAML file of fields (those of a run, or some of them over a preset)."""
    path = Path(path)
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config: cannot read {path}: {error.strerror or error}") from None
    except RecursionError:
        raise UserError(f"config: {path} is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # bytes that are no text, numbers too long
        raise UserError(f"config: {path} is not YAML: {error}") from None
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise UserError(f"config: expected fields and values in {path}, got {shown(fields)}")
    return resolve_config(**{**fields, **overrides})


def _nearest(field: str) -> str:
    names = get_close_matches(field, Config.model_fields, 3)
    if names:
        return f"; did you mean {' or '.join(names)}?"
    return "; 'flowvae train --help' shows them all"

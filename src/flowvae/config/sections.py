"""One typed description of an experiment, in sections; each family owns its options.

Must not import torch: the command line reads this file to answer ``--help``.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flowvae.config.options import Options, Part, PositiveInt
from flowvae.config.placing import find, merged
from flowvae.errors import UserError, first_complaint

__all__ = ["Config", "DataSection", "EvaluationSection", "ModelSection", "TrainingSection"]

# Of the hub's data sets; ~me/people and ./people are folders.
_ON_HUB = re.compile(r"hf:(?:\w[\w.-]*/)?\w[\w.-]*(?::[\w.-]+)?", re.ASCII)


class ModelSection(Options):
    """The parts of the model."""

    latent_dim: PositiveInt = Field(default=2, description="D, the number of latent dimensions.")
    posterior: Part = Field(description="Family of q(z|x).")
    prior: Part = Field(description="Family of p(z).")
    likelihood: Part = Field(description="Family of p(x|z).")
    network: Part = Field(description="Family of the encoder and decoder bodies.")
    missingness: Literal["at_random", "self_masking"] = Field(
        default="at_random",
        description="With missing=model. at_random: that a value is missing may depend on what is "
        "there; self_masking: on the value itself, by p(missing | x) = sigmoid(a + b x), learned.",
    )
    init_output_bias: bool = Field(
        default=False, description="Start the decoder at the mean of the training data."
    )


class DataSection(Options):
    """What the data is and how it is read."""

    source: str = Field(
        default="mnist",
        description="'mnist' (bundled), an IDX file or a folder of them, a .npy or .npz file, a "
        ".csv or .parquet table, a folder of pictures, or hf:NAME.",
    )
    binarization: Literal["none", "dynamic", "static", "threshold"] = Field(
        default="none",
        description="none: grey pixels, a pseudo-likelihood; dynamic: a fresh draw at each use; "
        "static: one fixed draw; threshold: x >= 1/2.",
    )
    test_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share held out, by seed, when the data names no test set.",
    )
    validation_fraction: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the training data held out, by seed, to decide by.",
    )
    label_column: str | None = Field(
        default=None,
        description="Column of a table, or array of a .npz, that is a label and no feature.",
    )
    categorical_columns: tuple[str, ...] = Field(
        default=(), description="Columns of a table whose numbers are names of categories."
    )
    drop_columns: tuple[str, ...] = Field(
        default=(), description="Columns of a table to leave out."
    )
    condition: tuple[str, ...] = Field(
        default=(),
        description="What the model is conditioned on: 'labels', columns of a table, or an array "
        "of a .npz.",
    )
    labelled: PositiveInt | None = Field(
        default=None,
        description="Keep so many labels of the training data, as many of each class; all if not "
        "given.",
    )
    missing: Literal["refuse", "impute", "model"] = Field(
        default="refuse",
        description="Where there is no value: refuse it; impute the column's mean, or its most "
        "frequent category, of the training data; or model what is there alone, the encoder being "
        "told what is missing.",
    )
    scaling: Literal["auto", "none", "standard"] = Field(
        default="auto",
        description="standard: each value of an array (N, P) has mean 0 and deviation 1 on the "
        "training data; auto: only columns of numbers in tables.",
    )
    image_size: tuple[PositiveInt, ...] = Field(
        default=(),
        max_length=2,
        description="Height and width to which pictures in folders are resized.",
    )
    memory_budget: float = Field(
        default=1.0,
        gt=0,
        description="In GiB; a larger array stays in its file and is read as needed.",
    )

    @field_validator("condition", "drop_columns", "categorical_columns")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"expected each name once, got {name!r} twice")
        return names

    @field_validator("image_size")
    @classmethod
    def _image_size(cls, size: tuple[int, ...]) -> tuple[int, ...]:
        if len(size) == 1:
            raise ValueError(f"expected a height and a width, got {size[0]}")
        return size

    @property
    def public_source(self) -> str:
        """The source for others to read: of a path the last part, for folders name people.

        A name on the hub stays whole, which is ``hf:OWNER/NAME``, ``hf:NAME`` or either with
        ``:CONFIGURATION``; ``hf:`` may also stand before a folder.

        Examples:
            >>> DataSection(source="/home/me/private/people.csv").public_source
            'people.csv'
            >>> DataSection(source="hf:ylecun/mnist").public_source
            'hf:ylecun/mnist'
            >>> DataSection(source="hf:/home/me/private/people").public_source
            'people'
        """
        if _ON_HUB.fullmatch(self.source):
            return self.source
        return re.split(r"[\\/]", self.source.removeprefix("hf:").rstrip("\\/"))[-1] or "data"


class TrainingSection(Options):
    """How the objective is maximised."""

    epochs: PositiveInt = Field(default=100, description="Passes over the training data.")
    batch_size: PositiveInt = Field(default=100, description="Data per step.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Of Adam.")
    weight_decay: float = Field(default=1e-5, ge=0, description="Of Adam, an L2 penalty.")
    max_grad_norm: float | None = Field(
        default=None, gt=0, description="Clip the gradient to this norm; not clipped if not given."
    )
    max_grad_ratio: float | None = Field(
        default=None,
        gt=1,
        description="Clip the gradient to so many times its usual norm, a running mean; not "
        "clipped if not given.",
    )
    schedule: Literal["constant", "cosine", "one_cycle", "step"] = Field(
        default="constant",
        description="How the learning rate changes; cosine falls to zero, one_cycle rises first.",
    )
    schedule_epochs: PositiveInt = Field(
        default=30, description="Epochs to a step of schedule=step."
    )
    schedule_factor: float = Field(
        default=0.1, gt=0, le=1, description="What each step of schedule=step multiplies by."
    )
    accumulate: PositiveInt = Field(
        default=1, description="Batches whose mean gradient makes one update."
    )
    encoder_steps: PositiveInt = Field(
        default=1,
        description="Updates of encoder and posterior to each update of the whole model, on the "
        "same data with new noise.",
    )
    averaging: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Decay, per update, of a moving average of the weights, which is what is "
        "evaluated and saved; 0 is none.",
    )
    patience: PositiveInt | None = Field(
        default=None,
        description="Stop after so many epochs without a better ELBO on the validation data, and "
        "keep the best model; needs validation_fraction.",
    )
    checkpoint_minutes: float = Field(
        default=1.0,
        gt=0,
        description="Minutes between checkpoints, from which 'flowvae train --resume RUN' goes on.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Of the networks' matrix products; flows and densities stay in float32.",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Of PyTorch on the CPU; its own choice if not given."
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N or mps.")

    @field_validator("device")
    @classmethod
    def _device(cls, name: str) -> str:
        kind, _, index = name.partition(":")
        if kind not in ("auto", "cpu", "cuda", "mps") or (":" in name and not index.isdigit()):
            raise ValueError(f"expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
        return name


class EvaluationSection(Options):
    """The evaluation after training."""

    samples: PositiveInt = Field(default=200, description="Samples of z per test datum.")


class Config(BaseModel):
    """An experiment: model, data, objective, training and evaluation.

    Values can be given by section, ``model={"posterior": {"name": "planar", "num_flows": 16}}``, or
    by their short names, ``num_flows=16``. What is not given is the preset's. An option that
    several of the chosen families have goes, by its short name, to the first of network, posterior,
    prior, likelihood and objective; ``**{"prior.num_flows": 4}`` says which. A family may be given
    as its class. Short names read values, too.

    The default is the preset ``original``: the settings of the tutorial "Variational Autoencoder
    with Planar Flows".

    Raises:
        ValidationError: a ValueError that names a value that is unknown or out of range.

    Examples:
        >>> from flowvae import Config
        >>> config = Config(posterior="planar", num_flows=16, constraint="centred", epochs=5)
        >>> config.model.posterior.num_flows, config.training.epochs, config.num_flows
        (16, 5, 16)
        >>> config.replace(posterior="radial").model.posterior
        Part(name='radial', num_flows=16, amortized=True, standardized=False)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[2] = Field(default=2, description="Version of this description.")
    preset: str = Field(
        default="original", description="The preset that the other values started from."
    )
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="Of weights, batches, noise and splits."
    )
    model: ModelSection
    data: DataSection = DataSection()
    objective: Part = Field(
        description="What is maximised, and by which estimator of its gradient."
    )
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)

    @model_validator(mode="before")
    @classmethod
    def _by_section(cls, fields: Any) -> Any:
        return merged([fields], Config) if isinstance(fields, dict) else fields

    def __getattr__(self, name: str) -> Any:
        """A value by its short name."""
        if not name.startswith("_"):
            address = find(name, self)
            if address is not None:
                value: Any = self
                for part in address.split("."):
                    value = getattr(value, part)
                return value
        return super().__getattr__(name)  # pyright: ignore[reportAttributeAccessIssue]

    def replace(self, **fields: Any) -> Config:
        """The same with some values replaced, by section or by short name.

        Where a family is replaced, the new one keeps the options that it has, too.

        Raises:
            UserError: a value is unknown or out of range.
        """
        return layered(self.model_dump(), fields)

    def to_yaml(self) -> str:
        """Write it as YAML that :func:`flowvae.load_config` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def layered(*layers: dict[str, Any]) -> Config:
    """A configuration from values, the later ones over the earlier ones.

    Raises:
        UserError: a value is unknown or out of range; one line that names it.
    """
    try:
        return Config(**merged(layers, Config))
    except ValidationError as error:
        raise UserError(": ".join(filter(None, first_complaint(error)))) from None

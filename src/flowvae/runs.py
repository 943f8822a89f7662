"""A run is a folder that explains itself."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from flowvae.config import Config, resolve_config
from flowvae.data import Dataset
from flowvae.data.columns import columns_from_json, columns_to_json
from flowvae.data.load import load_configured
from flowvae.device import choose_device
from flowvae.errors import UserError
from flowvae.evaluation import Evaluation
from flowvae.files import write_bytes, write_csv, write_json, write_text
from flowvae.likelihoods.support import is_pseudo_likelihood
from flowvae.vae import VAE, build_vae

__all__ = ["Run", "load", "open_run", "read_model", "write_model"]

_MODEL = "model.safetensors"


class Run:
    """A run folder, with its model in memory.

    ``config.yaml``, ``model.safetensors``, ``metrics.csv``, ``evaluation.json``,
    ``environment.json`` and ``figures/``; each file is replaced whole or not at all.

    Args:
        path: the folder.
        config: the experiment.
        model: the model, on some device.
        dataset: the data if it is in memory already; else it is loaded when asked for.
    """

    def __init__(
        self, path: Path, config: Config, model: VAE, dataset: Dataset | None = None
    ) -> None:
        self.path, self.config, self.model = path, config, model
        self._dataset = dataset

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def dataset(self) -> Dataset:
        """The run's data, under its binarization policy."""
        if self._dataset is None:
            found = load_configured(self.config, self.model.columns)
            if found.data_shape != self.model.data_shape:
                raise UserError(
                    f"data: the run's model expects shape {self.model.data_shape}, "
                    f"{self.config.data} has {found.data_shape}"
                )
            if found.columns is not None and self.model.columns is None:
                raise UserError(
                    f"data: the run's model was trained on arrays, {self.config.data} is a table"
                )
            self._dataset = found
        return self._dataset

    @property
    def pseudo_likelihood(self) -> bool:
        """Whether log p(x|z) is no density: grey pixels under a Bernoulli likelihood."""
        return is_pseudo_likelihood(self.config, self.dataset)

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def evaluation(self) -> Evaluation | None:
        """The last evaluation written to the run, if any."""
        file = self.path / "evaluation.json"
        return Evaluation.from_dict(json.loads(file.read_text())) if file.exists() else None

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of ``metrics.csv``: one an epoch."""
        file = self.path / "metrics.csv"
        if not file.exists():
            return []
        header, *rows = [line.split(",") for line in file.read_text().splitlines()]
        return [dict(zip(header, map(float, row), strict=True)) for row in rows]

    def save_config(self) -> None:
        write_text(self.path / "config.yaml", self.config.to_yaml())

    def save_model(self) -> None:
        """Write weights, with what is needed to use them: one file is enough."""
        write_model(self.path / _MODEL, self.model, self.config)

    def save_metrics(self, rows: list[dict[str, float]]) -> None:
        values = [[_short(value) for value in row.values()] for row in rows]
        write_csv(self.path / "metrics.csv", list(rows[0]), values)

    def save_evaluation(self, evaluation: Evaluation) -> None:
        write_json(self.path / "evaluation.json", evaluation.to_dict())

    def save_environment(self, **facts: Any) -> None:
        """Record how this run came to be; ``facts`` such as status and durations are added."""
        device = next(self.model.parameters()).device
        packages = ("flowvae", "torch", "numpy", "pydantic", "safetensors", "matplotlib")
        found = {
            "status": None,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "seed": self.config.seed,
            "device": str(device),
            "device_name": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "versions": {name: _version(name) for name in packages},
            "git_commit": _git_commit(),
            "pseudo_likelihood": self.pseudo_likelihood,
            "data": self.dataset.describe(),
        }
        write_json(self.path / "environment.json", {**found, **facts})


def load(path: str | Path, device: str | torch.device = "cpu") -> VAE:
    """Give back the model of a run.

    Args:
        path: a run folder, or its ``model.safetensors`` alone.
        device: where to put it; ``"auto"`` is the best there is.

    Returns:
        The model in evaluation mode.

    Raises:
        UserError: no run is there, or its model file is corrupt.
    """
    return read_model(Path(path), device)[0]


def open_run(path: str | Path, device: str | torch.device = "auto", data: str | None = None) -> Run:
    """Open a run folder: model, configuration and, when asked for, data.

    Args:
        path: the run folder.
        device: where to put the model.
        data: use this data instead of what the run was trained on.
    """
    path = Path(path)
    model, config, _ = read_model(path, device)
    if data is not None:
        config = config.model_copy(update={"data": data})
    return Run(path if path.is_dir() else path.parent, config, model)


def new_run_folder(out: str | Path | None, config: Config) -> Path:
    """Check that a run can be written to ``out``, or choose a dated folder under ``runs/``."""
    if out is None:
        now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        stem = f"{now}_{config.preset}_seed{config.seed}"
        names = [stem, *(f"{stem}_{n}" for n in range(2, 100))]
        return next(Path("runs") / name for name in names if not (Path("runs") / name).exists())
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out: expected a new or empty folder, got {out}, which is in use")
    return out


def write_model(file: Path, model: VAE, config: Config, **more: str) -> None:
    """Write a model's weights, with configuration, data shape and columns in the header.

    Args:
        file: to write, whole or not at all.
        model: the model.
        config: what it was built from.
        **more: further texts for the header.
    """
    about = {
        "config": config.model_dump(mode="json"),
        "data_shape": model.data_shape,
        "columns": columns_to_json(model.columns),
    }
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes(file, save(weights, metadata={"flowvae": json.dumps(about), **more}))


def read_model(path: Path, device: str | torch.device) -> tuple[VAE, Config, dict[str, str]]:
    """The inverse of :func:`write_model`, from its file or a run's folder: with the header."""
    file = path / _MODEL if path.is_dir() else path
    if not file.exists():
        raise UserError(f"run: expected a run folder with {_MODEL}, got {path}")
    target = choose_device(device) if isinstance(device, str) else device
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            header = opened.metadata() or {}
            about = json.loads(header["flowvae"])
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        config = resolve_config(**about["config"])
        columns = columns_from_json(about.get("columns"))  # not in the files of version 0.1
        model = build_vae(config, about["data_shape"], columns=columns)
        model.load_state_dict(weights)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"run: {file} is no model of flowvae's, or corrupt: {reason}") from None
    return model.to(target).eval(), config, header


def _short(value: float) -> str:
    return f"{value:.10g}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None

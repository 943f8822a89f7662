"""A run is a folder that explains itself."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn.modules.module import register_module_parameter_registration_hook

from flowvae.building import build_vae
from flowvae.config import Config, outside_modules, resolve_config
from flowvae.data import Dataset
from flowvae.data.columns import Column, columns_from_json, columns_to_json, encoded_width
from flowvae.data.load import load_configured
from flowvae.device import choose_device, machine
from flowvae.errors import UserError, first_complaint, shown
from flowvae.evaluation import Evaluation
from flowvae.files import write_bytes, write_json, write_text
from flowvae.hub.fetching import fetched, is_on_hub
from flowvae.likelihoods import Measure, measure_of
from flowvae.likelihoods.support import check_support
from flowvae.metrics import Metrics, read_metrics, write_metrics
from flowvae.processes import is_first, process_count
from flowvae.run_folders import check_trust
from flowvae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "MODEL_FILE",
    "PACKAGES",
    "Run",
    "load",
    "open_run",
    "opened",
    "package_version",
    "read_model",
    "write_model",
]

MODEL_FILE = "model.safetensors"
# Whose versions are recorded with a run.
PACKAGES = ("flowvae", "torch", "numpy", "pydantic", "safetensors", "matplotlib")
_ALSO = ("config.yaml", "evaluation.json", "metrics.csv")  # of a run on the hub


class Run:
    """A run folder, with its model in memory. Of several processes the first alone writes to it.

    ``config.yaml``, ``model.safetensors``, ``metrics.csv``, ``evaluation.json``,
    ``environment.json`` and ``figures/``; each file is replaced whole or not at all.

    Args:
        path: the folder.
        config: the experiment.
        model: the model, on some device.
        dataset: the data if it is in memory already; else it is loaded when asked for.

    Raises:
        UserError: the data, given or loaded, is not in the likelihood's support, or a file that is
            read is corrupt.
    """

    def __init__(
        self, path: Path, config: Config, model: VAE, dataset: Dataset | None = None
    ) -> None:
        if dataset is not None:
            check_support(config.model.likelihood, dataset)
        self.path, self.config, self.model = path, config, model
        self._dataset = dataset

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from flowvae.notebook import run_html

        return run_html(self)

    @property
    def dataset(self) -> Dataset:
        """The run's data, under its binarization policy."""
        if self._dataset is None:
            found = load_configured(
                self.config.data, self.config.seed, self.model.columns, self.model.condition
            )
            if found.data_shape != self.model.data_shape:
                raise UserError(
                    f"data: the run's model expects shape {self.model.data_shape}, "
                    f"{self.config.data.source} has {found.data_shape}"
                )
            if found.columns is not None and self.model.columns is None:
                raise UserError(
                    "data: the run's model was trained on arrays, "
                    f"{self.config.data.source} is a table"
                )
            check_support(self.config.model.likelihood, found)
            self._dataset = found
        return self._dataset

    @property
    def measure(self) -> Measure:
        """What exp log p(x) is on this data: only figures of one kind can be compared."""
        return measure_of(self.model.likelihood, not self.dataset.pseudo_likelihood)

    @property
    def pseudo_likelihood(self) -> bool:
        """Whether it is a pseudo-likelihood: grey pixels under a Bernoulli likelihood."""
        return self.measure == "pseudo-likelihood"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def evaluation(self) -> Evaluation | None:
        """The last evaluation written to the run, if any."""
        file = self.path / "evaluation.json"
        if not file.exists():
            return None
        try:
            return Evaluation.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"run: {file} is corrupt: {error}") from None

    @property
    def metrics(self) -> Metrics:
        """The rows of ``metrics.csv``, one an epoch: see :class:`flowvae.metrics.Metrics`."""
        return read_metrics(self.path / "metrics.csv")

    def figure(self, name: str) -> Figure:
        """One of the pictures of ``flowvae figures``, drawn anew and not written.

        Args:
            name: see :func:`flowvae.figures.picture_names` for those that this run allows.

        Returns:
            A matplotlib ``Figure``, which a notebook shows.

        Raises:
            UserError: no picture has this name, or this run does not allow it.
        """
        from flowvae.figures import draw_picture

        return draw_picture(self, name)

    def generator(self, seed: int) -> torch.Generator:
        """For draws where the model is."""
        return torch.Generator(next(self.model.parameters()).device).manual_seed(seed)

    def explore(self, **options: Any) -> Any:
        """Write a page to explore the run, which shows itself in a notebook: :func:`explore`."""
        from flowvae.explorer import explore

        return explore(self, **options)

    def save_config(self) -> None:
        if is_first():
            write_text(self.path / "config.yaml", self.config.to_yaml())

    def save_model(self) -> None:
        """Write weights, with what is needed to use them: one file is enough."""
        if is_first():
            write_model(self.path / MODEL_FILE, self.model, self.config)

    def save_metrics(self, rows: list[dict[str, float]]) -> None:
        if is_first():
            write_metrics(self.path / "metrics.csv", rows)

    def save_evaluation(self, evaluation: Evaluation) -> None:
        if is_first():
            write_json(self.path / "evaluation.json", evaluation.to_dict())

    def save_environment(self, **facts: Any) -> None:
        """Record how this run came to be; ``facts`` such as status and durations are added."""
        device = next(self.model.parameters()).device
        found = {
            "status": None,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "seed": self.config.seed,
            "device": str(device),
            "device_name": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else machine(),
            "threads": torch.get_num_threads(),
            "processes": process_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "versions": {name: package_version(name) for name in PACKAGES},
            "git_commit": _git_commit(),
            "pseudo_likelihood": self.pseudo_likelihood,
            "data": self.dataset.describe(),
        }
        if is_first():
            write_json(self.path / "environment.json", {**found, **facts})


def load(path: str | Path, device: str | torch.device = "cpu", *, trust: bool = False) -> VAE:
    """Give back the model of a run. Opening a run executes nothing that the run says.

    Args:
        path: a run folder, its ``model.safetensors`` alone, or ``hf://OWNER/NAME`` on the Hugging
            Face hub, of which only that file is downloaded.
        device: where to put it; ``"auto"`` is the best there is.
        trust: import the module of a family that is ``module:Class``, which executes its code.

    Returns:
        The model in evaluation mode.

    Raises:
        UserError: no run is there, its model file is corrupt, or it names a class outside
            flowvae and is not trusted.
    """
    if is_on_hub(path):
        path = fetched(path, MODEL_FILE)
    return read_model(Path(path), device, trust)[0]


def open_run(
    path: str | Path,
    device: str | torch.device = "auto",
    data: str | None = None,
    *,
    trust: bool = False,
) -> Run:
    """Open a run folder: model, configuration and, when asked for, data.

    Args:
        path: the run folder, or ``hf://OWNER/NAME`` on the Hugging Face hub: the run is then a
            folder in the cache of downloads, for reading.
        device: where to put the model.
        data: use this data instead of what the run was trained on.
        trust: see :func:`load`.
    """
    path = fetched(path, MODEL_FILE, _ALSO) if is_on_hub(path) else Path(path)
    model, config, _ = read_model(path, device, trust)
    if data is not None:
        config = config.replace(data=data)
    return Run(path if path.is_dir() else path.parent, config, model)


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
        "condition": columns_to_json(model.condition),
    }
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes(file, save(weights, metadata={"flowvae": json.dumps(about), **more}))


RunLike = Run | str | Path


def opened(run: RunLike, device: str, data: str | None = None) -> Run:
    """A run, given as such or by its folder, with other data if they are named."""
    if not isinstance(run, Run):
        return open_run(run, device, data)
    if data is None:
        return run
    return Run(run.path, run.config.replace(data=data), run.model)


def read_model(
    path: Path, device: str | torch.device, trust: bool = False
) -> tuple[VAE, Config, dict[str, str]]:
    """The inverse of :func:`write_model`, from its file or a run's folder: with the header."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"run: expected a run folder with {MODEL_FILE}, got {path}")
    target = choose_device(device) if isinstance(device, str) else device
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            names = set(opened.keys())
            header = opened.metadata() or {}
            config, data_shape, *known = _read_header(file, header, trust)
            if not outside_modules(config.model_dump()):
                shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in names}
                _check_shapes(shapes, config, data_shape, known)
            model = build_vae(config, data_shape, None, *known)
            model.load_state_dict({name: opened.get_tensor(name) for name in names})
        for name, weight in model.named_parameters():
            if not weight.isfinite().all():
                raise UserError(f"run: {file}: weight {name} is not finite")
    except UserError:
        raise
    except ValidationError as error:
        reason = ": ".join(part for part in first_complaint(error) if part)
        raise UserError(f"run: {file} is no model of flowvae's, or corrupt: {reason}") from None
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"run: {file} is no model of flowvae's, or corrupt: {error}") from None
    return model.to(target).eval(), config, header


class _Header(BaseModel):
    """What :func:`write_model` writes beside the weights."""

    config: dict[str, Any]
    data_shape: tuple[Annotated[int, Field(ge=1, le=2**31)], ...] = Field(min_length=1)
    columns: Any = None  # not in the files of version 0.1
    condition: Any = None  # nor in those of the first months


def _read_header(
    file: Path, header: dict[str, str], trust: bool
) -> tuple[Config, tuple[int, ...], tuple[Column, ...] | None, tuple[Column, ...] | None]:
    if "flowvae" not in header:
        raise ValueError("its header has no entry 'flowvae'")
    about = _Header.model_validate_json(header["flowvae"])
    columns = columns_from_json(about.columns)
    if columns is not None and about.data_shape != (encoded_width(columns),):
        raise ValueError(
            f"data_shape: expected the width of its columns, {encoded_width(columns)}, "
            f"got {shown(about.data_shape)}"
        )
    check_trust(file, about.config, trust)
    try:
        config = resolve_config(**about.config)
        return config, about.data_shape, columns, columns_from_json(about.condition)
    except UserError as error:
        raise UserError(f"run: {file}: {error}") from None


def _check_shapes(
    found: dict[str, tuple[int, ...]],
    config: Config,
    data_shape: tuple[int, ...],
    known: Sequence[tuple[Column, ...] | None],
) -> None:
    """See that the file holds the weights of this model before memory is taken for it."""
    most, count = len(found), 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise ValueError(f"the configuration has more weights than the {most} in the file")

    hook = register_module_parameter_registration_hook(counted)
    try:
        with torch.device("meta"):
            model = build_vae(config, data_shape, None, *known)
    except NotImplementedError:
        return  # zuko's splines cannot be built without numbers; the file is compared on loading
    finally:
        hook.remove()
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"weight {shown(name)}: expected shape {expected.get(name, 'none')}, "
                f"got {found.get(name, 'none')}"
            )


def package_version(package: str) -> str | None:
    """Of a package that is installed."""
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

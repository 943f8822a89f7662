"""Of a run's ``environment.json`` what is told to others; the file may be anybody's."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, computed_field, field_validator

from flowvae.errors import UserError, first_complaint
from flowvae.runs import PACKAGES, Run

__all__ = ["Environment", "read_environment"]

# A version, a status: nothing that ends a line, a table's cell or a span of code.
_Word = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.+!-]+$")]
_Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Data(BaseModel):
    name: str = ""
    shape: tuple[_Count, ...] | None = Field(default=None, max_length=16)
    train: _Count | None = None
    test: _Count | None = None


class _Durations(BaseModel):
    training: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class Environment(BaseModel):
    """How a run was made, of bounded length.

    What the file also has, the command with its paths, the machine's name, the commit of a folder
    and the time of day, is left out.
    """

    status: _Word | None = None
    seed: _Count | None = None
    threads: _Count | None = None
    processes: _Count | None = None
    python: _Word | None = None
    versions: dict[str, _Word | None] = {}
    pseudo_likelihood: bool | None = None
    device: _Word = "unknown"
    data: _Data = _Data()
    durations: _Durations = Field(default=_Durations(), exclude=True)

    @computed_field
    @property
    def seconds(self) -> float:
        """Of training."""
        return self.durations.training

    @field_validator("versions", mode="before")
    @classmethod
    def _of_packages(cls, found: Any) -> Any:
        if not isinstance(found, dict):
            return found
        return {package: found[package] for package in PACKAGES if package in found}

    @field_validator("device", mode="before")
    @classmethod
    def _kind(cls, device: Any) -> Any:
        return device.partition(":")[0] if isinstance(device, str) else device


def read_environment(run: Run) -> Environment | None:
    """That of a run, if it has one.

    Raises:
        UserError: the file cannot be read, or a value is none that flowvae writes.
    """
    file = run.path / "environment.json"
    if not file.is_file():
        return None
    try:
        found = Environment.model_validate_json(file.read_bytes())
    except ValidationError as error:
        reason = ": ".join(part for part in first_complaint(error) if part)
        raise UserError(f"run: {file} is corrupt: {reason}") from None
    except OSError as error:
        raise UserError(f"run: {file} cannot be read: {error.strerror}") from None
    data = found.data.model_copy(update={"name": run.config.data.public_source})
    return found.model_copy(update={"data": data})

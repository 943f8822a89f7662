"""Configurations from presets and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from flowvae.config.placing import KINDS, addresses
from flowvae.config.sections import Config, layered
from flowvae.errors import UserError, shown
from flowvae.registry import FAMILIES

__all__ = ["load_config", "outside_modules", "preset", "read_yaml", "resolve_config"]


def resolve_config(**overrides: Any) -> Config:
    """A preset with some values replaced, checked.

    Raises:
        UserError: a value is unknown or out of range; one line that names it.
    """
    return layered(overrides)


def preset(name: str) -> Config:
    """A preset by name, such as ``original``, ``gaussian`` or ``planar``."""
    return layered({"preset": name})


def load_config(path: str | Path, /, **overrides: Any) -> Config:
    """Read a YAML file of values (those of a run, or some of them over a preset).

    A file may name a family as ``module:Class``, which is imported: read only what you trust.

    Raises:
        UserError: the file cannot be read, is no configuration, or has a value that is unknown or
            out of range.
    """
    return layered(read_yaml(path), overrides)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The fields of a YAML file, as they stand there.

    Raises:
        UserError: the file cannot be read, or has no fields.
    """
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
    return fields


def outside_modules(fields: dict[str, Any]) -> dict[str, str]:
    """Of each part that is a ``"module:Class"`` its name: what reading these values would import.

    Nothing is imported to answer.
    """
    return {
        kind: value
        for kind in KINDS
        for address, value in addresses(fields, Config)
        if address == f"{kind}.name"
        and isinstance(value, str)
        and value in FAMILIES[kind]
        and FAMILIES[kind].module_of(value) is not None
    }

"""Where a value belongs: sections, short names, layers, and files of version 1.

Every value has one address, such as ``training.epochs`` or ``posterior.num_flows``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from flowvae.config.options import Part, options_of
from flowvae.config.presets import PRESETS
from flowvae.errors import UserError, first_complaint, shown
from flowvae.registry import FAMILIES

__all__ = ["DEFAULTS", "KINDS", "addresses", "find", "merged", "short_names"]

# The order in which the chosen families are asked for an option that is given by its short name.
KINDS = ("network", "posterior", "prior", "likelihood", "objective")
DEFAULTS = {
    "network": "mlp",
    "posterior": "planar",
    "prior": "standard_normal",
    "likelihood": "bernoulli",
    "objective": "elbo",
}

# Names of version 1 for options that now have the name they have in their family.
_RENAMED = {
    "num_prior_flows": ("prior.num_flows",),
    "flow_hidden_dims": ("posterior.hidden_dims", "prior.hidden_dims"),
}
# Every description of version 1 had these, whether or not a chosen family had a use for them.
_OPTIONS_1 = frozenset(
    (
        *("num_flows", "constraint", "amortized", "num_orthogonal", "num_householder"),
        *("flow_hidden_dims", "num_components", "num_prior_flows", "sigma", "num_mixtures"),
        *("num_categories", "activation", "gated", "channels", "hidden_dims", "samples", "beta"),
        *("free_bits", "warmup", "warmup_start", "warmup_epochs", "warmup_steps"),
    )
)

_TOP = ("version", "preset", "seed")  # what is in no section

Layer = Mapping[str, Any]


def merged(layers: Sequence[Layer], config: type[BaseModel]) -> dict[str, Any]:
    """Layers of values over a preset, the later ones over the earlier ones, by section.

    A layer with a ``version`` is a whole description and rests on no preset.

    Raises:
        UserError: a value has no place, or is none that its family takes.
    """
    given = [dict(addresses(layer, config)) for layer in layers]
    naming = next((values for values in reversed(given) if "preset" in values), {})
    preset = naming.get("preset", "original")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UserError(f"preset: expected one of {', '.join(PRESETS)}, got {shown(preset)}")
    # What a run wrote has a version and is whole: an option that came later has its default there,
    # whatever the preset of that name says today.
    beneath = {} if "version" in naming else PRESETS[preset][1]
    given.insert(0, dict(addresses(beneath, config)))
    chosen = chosen_families(given)
    options = {kind: list(options_of(kind, name).model_fields) for kind, name in chosen.items()}

    found: dict[str, Any] = {}
    now = dict(DEFAULTS)
    for number, values in enumerate(given):
        old = values.get("version") == 1
        now |= {kind: values[f"{kind}.name"] for kind in KINDS if f"{kind}.name" in values}
        # Options of a family that a later layer replaces are dropped where the new one has none.
        lenient = number == 0 or now != chosen
        for address, value in values.items():
            kind, _, option = address.rpartition(".")
            if kind in KINDS:
                homes = [address] if option == "name" or option in options[kind] else []
                lost = lenient
            elif address.startswith("?"):
                option = address[1:]
                homes = _homes(option, options)
                lost = lenient or (old and option in _OPTIONS_1)
            else:
                homes, lost = [address], False
            if not homes and not lost:
                raise UserError(_no_such(address, chosen, options, config))
            for home in homes:
                found[home] = value
    return _nested(found, chosen)


def chosen_families(layers: Iterable[Layer]) -> dict[str, str]:
    """The family of each part, as addresses in the last layer that names one.

    Raises:
        UserError: there is no such family.
    """
    chosen = dict(DEFAULTS)
    for values in layers:
        chosen |= {kind: values[f"{kind}.name"] for kind in KINDS if f"{kind}.name" in values}
    for kind, name in chosen.items():
        if not isinstance(name, str) or name not in FAMILIES[kind]:
            choices = ", ".join(FAMILIES[kind])
            raise UserError(
                f"{kind}: expected one of {choices}, or module:Class, got {shown(name)}"
            )
    return chosen


def find(name: str, config: Any) -> str | None:
    """The path of a short name in a configuration, such as ``model.posterior.num_flows``."""
    known = short_names(type(config))
    if name in KINDS:
        return f"model.{name}"
    if name in known:
        return known[name]
    for kind in KINDS:
        part = config.objective if kind == "objective" else getattr(config.model, kind)
        homes = _RENAMED.get(name, (f"{kind}.{name}",))
        for home in homes:
            if home.startswith(f"{kind}.") and home.partition(".")[2] in part.options():
                return home if kind == "objective" else f"model.{home}"
    return None


@lru_cache(maxsize=1)
def short_names(config: type[BaseModel]) -> dict[str, str]:
    """Short names of what is in the sections, and their addresses; the options are not there."""
    found: dict[str, str] = {}
    for section, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            if section in KINDS:
                continue
            for name in field.annotation.model_fields:
                if name not in KINDS:
                    short = f"evaluation_{name}" if section == "evaluation" else name
                    found[short] = f"{section}.{name}"
    return found


def addresses(
    fields: Layer, config: type[BaseModel], section: str = ""
) -> Iterator[tuple[str, Any]]:
    """Addresses and values; ``?name`` for what only a family can have."""
    known = short_names(config)
    places = set(known.values())
    for key, given in fields.items():
        name = f"{section}.{key}" if section else str(key)
        value = given.model_dump() if isinstance(given, BaseModel) else given
        if name.removeprefix("model.") in KINDS:
            yield from _of_part(name.removeprefix("model."), value)
        elif name == "data" and isinstance(value, str):
            yield "data.source", value
        elif name in _TOP or name in places:
            yield name, value
        elif name in config.model_fields:
            if not isinstance(value, Mapping):
                raise UserError(f"{name}: expected names and values, got {shown(value)}")
            yield from addresses(value, config, name)
        elif name in known:
            yield known[name], value
        elif name.removeprefix("model.").partition(".")[0] in KINDS:
            yield name.removeprefix("model."), value
        elif "." in name:
            raise UserError(f"{name}: no such field{_nearest(name, places)}")
        else:
            yield f"?{name}", value


def _of_part(kind: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A family's name and options, from its name, its class, or a mapping of both."""
    if isinstance(value, Mapping):
        yield from ((f"{kind}.{option}", each) for option, each in value.items())
    else:
        named = FAMILIES[kind].name_of(value) if isinstance(value, type) else value
        yield f"{kind}.name", named


def _homes(option: str, options: dict[str, list[str]]) -> list[str]:
    """Where an option given by its short name belongs."""
    if option in _RENAMED:
        pairs = [home.split(".") for home in _RENAMED[option]]
        return [f"{kind}.{name}" for kind, name in pairs if name in options[kind]]
    return next(([f"{kind}.{option}"] for kind in KINDS if option in options[kind]), [])


def _no_such(
    address: str, chosen: dict[str, str], options: dict[str, list[str]], config: type[BaseModel]
) -> str:
    name = address.removeprefix("?")
    kind, _, option = name.rpartition(".")
    if kind in KINDS:
        has = ", ".join(options[kind]) or "none"
        return f"{name}: the {kind} {chosen[kind]} has no option {option}; its options: {has}"
    names = [*short_names(config), *KINDS, *(each for kind in KINDS for each in options[kind])]
    owners = [
        f"{kind} {family}"
        for kind in KINDS
        for family in FAMILIES[kind]
        if name in options_of(kind, family).model_fields
    ]
    if owners:
        return (
            f"{name}: an option of the {', '.join(owners)}; chosen are "
            f"{', '.join(chosen[kind] for kind in KINDS)}"
        )
    return f"{name}: no such field{_nearest(name, names)}"


def _nearest(name: str, names: Iterable[str]) -> str:
    close = get_close_matches(name, list(names), 3)
    return f"; did you mean {' or '.join(close)}?" if close else "; see flowvae train --help"


def _nested(found: dict[str, Any], chosen: dict[str, str]) -> dict[str, Any]:
    sections: dict[str, Any] = {"model": {}}
    for address, value in found.items():
        section, _, name = address.rpartition(".")
        if section not in KINDS:
            (sections.setdefault(section, {}) if section else sections)[name] = value
    if sections.get("version") == 1:
        sections["version"] = 2
    for kind, name in chosen.items():
        prefix = f"{kind}."
        values = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
        values["name"] = name
        (sections if kind == "objective" else sections["model"])[kind] = _part(kind, values)
    return sections


def _part(kind: str, values: dict[str, Any]) -> Part:
    name = values.pop("name")
    try:
        checked = options_of(kind, name)(**values)
    except ValidationError as error:
        field, complaint = first_complaint(error)
        raise UserError(f"{kind}.{field}: {complaint}") from None
    return Part(
        name=name, **{field: getattr(checked, field) for field in type(checked).model_fields}
    )

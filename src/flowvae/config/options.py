"""What a family can be told: the arguments of its constructor that the model does not give it.

A family writes its options once, as arguments with types and defaults. From these follow the
configuration, the flags, the checks and the help.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, create_model, field_validator

from flowvae.registry import FAMILIES

__all__ = [
    "CONTEXT",
    "NumFlows",
    "Options",
    "Part",
    "PositiveInt",
    "Widths",
    "build",
    "is_list",
    "options_of",
]

# Larger values are mistakes; checking them here keeps them from allocating memory.
MOST = 10**9
PositiveInt = Annotated[int, Field(ge=1, le=MOST)]
NumFlows = Annotated[int, Field(ge=0, le=100_000)]
Widths = Annotated[Sequence[PositiveInt], Field(min_length=1)]

# What the model knows, and gives to a family whose constructor asks for it by name.
CONTEXT: dict[str, frozenset[str]] = {
    "posterior": frozenset({"in_features", "latent_dim"}),
    "prior": frozenset({"latent_dim", "data_dim", "condition_dim", "to_support"}),
    "likelihood": frozenset({"columns"}),
    "network": frozenset({"data_shape", "latent_dim", "num_outputs"}),
    "objective": frozenset({"steps_per_epoch"}),
}


class Options(BaseModel):
    """Named values with types, ranges and defaults; text from a flag is read as YAML would be."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read_text(cls, value: Any, info: ValidationInfo) -> Any:
        """``a,b`` for a list, and ``none`` where nothing may be given."""
        if isinstance(value, str) and info.field_name is not None:
            kinds = _kinds(cls.model_fields[info.field_name].annotation)
            if value == "none" and type(None) in kinds and str not in kinds:
                return None
            if any(map(is_list, kinds)):
                return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _unchanging(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class Part(BaseModel):
    """The family chosen for one part of the model, and its options as attributes.

    Examples:
        >>> from flowvae import preset
        >>> preset("planar").model.posterior.num_flows, preset("gaussian").model.posterior
        (16, Part(name='gaussian'))
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    def options(self) -> dict[str, Any]:
        """Every option and its value."""
        return dict(self.__pydantic_extra__ or {})


def options_of(kind: str, name: str) -> type[Options]:
    """The options of a family, as a model that checks them.

    Args:
        kind: posterior, prior, likelihood, network or objective.
        name: of the family, or ``"module:Class"``, which is imported.
    """
    return _options_of(kind, FAMILIES[kind][name])


@lru_cache(maxsize=256)
def _options_of(kind: str, family: type) -> type[Options]:
    fields: dict[str, Any] = {}
    without = CONTEXT[kind] | getattr(family, "without_options", frozenset())
    for maker in _makers(kind, family):
        described = _descriptions(family, maker)
        for parameter, annotation in _parameters(maker, without):
            default = ... if parameter.default is parameter.empty else parameter.default
            text = described.get(parameter.name)
            fields[parameter.name] = (annotation, Field(default, description=text))
    return create_model(family.__name__, __base__=Options, **fields)


def build(kind: str, part: Part, *, maker: str | None = None, **context: Any) -> Any:
    """Make what a part describes; what the model knows is given to whatever asks for it.

    Args:
        kind: of the part.
        part: its family and options.
        maker: the class method to call; else the family's ``build``, or the class itself.
        **context: what the model knows, see ``CONTEXT``.
    """
    family = FAMILIES[kind][part.name]
    make = getattr(family, maker) if maker else _makers(kind, family)[0]
    accepted = {p.name for p, _ in _parameters(make, frozenset())}
    offered = {**context, **part.options()}
    return make(**{name: value for name, value in offered.items() if name in accepted})


def is_list(annotation: Any) -> bool:
    """Whether values of this type are lists."""
    return get_origin(annotation) in (tuple, list, Sequence)


def _makers(kind: str, family: Any) -> list[Callable[..., Any]]:
    if kind == "network":
        return [family.encoder, family.decoder]
    return [getattr(family, "build", family)]


def _parameters(
    maker: Callable[..., Any], without: frozenset[str]
) -> list[tuple[inspect.Parameter, Any]]:
    """Parameters and their types; those of the base classes' too, where ``**others`` are taken."""
    functions: list[Any] = [maker]
    if isinstance(maker, type):
        functions = [
            base.__dict__["__init__"] for base in maker.__mro__ if "__init__" in vars(base)
        ]
    found: dict[str, tuple[inspect.Parameter, Any]] = {}
    for function in functions:
        parameters = list(inspect.signature(function).parameters.values())
        if isinstance(maker, type):
            parameters = parameters[1:]  # self
        named = [
            p
            for p in parameters
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in without
        ]
        notes = getattr(function, "__annotations__", {})
        some = {p.name: notes[p.name] for p in named if p.name in notes}
        scope: Mapping[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
        types = typing.get_type_hints(
            SimpleNamespace(__annotations__=some), dict(scope), include_extras=True
        )
        for p in named:
            found.setdefault(p.name, (p, types.get(p.name, Any)))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(found.values())


_ARGUMENT = re.compile(r"^ {4}(\w+): (.+(?:\n {5,}\S.*)*)", re.MULTILINE)


def _descriptions(family: type, maker: Callable[..., Any]) -> dict[str, str]:
    """What the docstrings of a class, of its bases and of its maker say of their arguments."""
    found: dict[str, str] = {}
    for documented in (maker, *family.__mro__):
        text = inspect.cleandoc(getattr(documented, "__doc__", None) or "")
        _, _, arguments = text.partition("\nArgs:\n")
        for name, said in _ARGUMENT.findall(arguments.split("\n\n")[0]):
            plain = re.sub(r":\w+:`([^`]+)`", r"\1", said.replace("``", ""))
            plain = " ".join(plain.split())
            found.setdefault(name, plain[:1].upper() + plain[1:])
    return found


def _kinds(annotation: Any) -> list[Any]:
    """A type's alternatives, without what is said of them."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (typing.Union, type(int | str)):
        return [kind for each in get_args(annotation) for kind in _kinds(each)]
    return [annotation]

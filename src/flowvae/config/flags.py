"""A flag for every value of a configuration, and the help that lists them by section."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from flowvae.config.options import is_list, options_of
from flowvae.config.placing import DEFAULTS, KINDS, short_names
from flowvae.config.sections import Config, DataSection
from flowvae.errors import UserError
from flowvae.registry import FAMILIES, Registry

__all__ = ["ONCE", "ConfigCommand", "config_options", "data_options", "given_values"]


def _once(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> str | None:
    del ctx
    if len(value) > 1:
        raise UserError(
            f"{param.name}: expected once, got {len(value)} times; several go together, as "
            f"{','.join(value)}"
        )
    return value[0] if value else None


# Of a flag with a list: click would take the last of several silently.
ONCE: dict[str, Any] = {"multiple": True, "callback": _once}


class _Family(click.ParamType):
    """A name in a registry as it stands when the flag is read, or a MODULE:CLASS."""

    name = "NAME"

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        del param, ctx
        return f"[{'|'.join(self._registry)}|MODULE:CLASS]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self._registry:
            choices = ", ".join(self._registry)
            self.fail(f"expected one of {choices}, or MODULE:CLASS, got {value!r}", param, ctx)
        return str(value)


class _ConfigOption(click.Option):
    """A flag that belongs to a section of the help."""

    section = ""


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A flag for every value that is in a section, under its short name."""
    chosen = [("model", kind, FAMILIES[kind]) for kind in KINDS if kind != "objective"]
    chosen.append(("objective", "objective", FAMILIES["objective"]))
    found = [
        _option(kind, section, _field(section, kind), _Family(registry), DEFAULTS[kind])
        for section, kind, registry in chosen
    ]
    found += [
        _option(
            "data" if short == "source" else short,
            address.partition(".")[0],
            _field(*address.split(".")),
        )
        for short, address in short_names(Config).items()
    ]
    found.append(_option("seed", "training", Config.model_fields["seed"]))
    return _decorated(command, found)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Flags for how data is read."""
    fields = [(n, f) for n, f in DataSection.model_fields.items() if n != "source"]
    found = [_option(name, "data", field) for name, field in fields]
    found.append(_option("seed", "data", Config.model_fields["seed"]))
    return _decorated(command, found)


def _field(section: str, name: str) -> Any:
    annotation: Any = Config.model_fields[section].annotation
    return Config.model_fields[name] if section == name else annotation.model_fields[name]


def _decorated(command: Callable[..., Any], options: Sequence[Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def _option(
    name: str, section: str, field: Any, kind: Any = None, default: str | None = None
) -> Callable[..., Any]:
    flag = f"--{name.replace('_', '-')}"

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        made = click.option(
            flag,
            type=kind or _click_type(field.annotation),
            metavar=_metavar(field.annotation) if kind is None else None,
            default=None,
            cls=_ConfigOption,
            **(ONCE if kind is None and is_list(field.annotation) else {}),
            help=_help(field) if default is None else f"{field.description}  [{default}]",
        )(command)
        made.__click_params__[-1].section = section  # pyright: ignore
        return made

    return decorate


def _click_type(annotation: Any) -> Any:
    """The type that gives the better message before anything is imported; lists are text."""
    if get_origin(annotation) is Annotated:
        return _click_type(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if get_origin(annotation) in (UnionType, Union):
        return str  # X | None: "none" is a value
    return annotation if annotation in (int, float, bool) else str


def _metavar(annotation: Any) -> str | None:
    if is_list(annotation):
        inner = get_args(annotation)[0]
        return "NAME[,NAME…]" if inner is str else "N[,N…]"
    if get_origin(annotation) in (UnionType, Union):
        inner = get_args(annotation)[0]
        inner = get_args(inner)[0] if get_origin(inner) is Annotated else inner
        return {int: "INTEGER", float: "FLOAT"}.get(inner, "TEXT")
    return None


def _help(field: Any) -> str:
    text = field.description or ""
    if field.is_required():
        return text
    default = field.default
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text}  [{'none' if shown in (None, '') else shown}]".lstrip()


class ConfigCommand(click.Command):
    """A command with the flags of a configuration, and with those of whatever families are chosen.

    The latter are known once the family is, so they are taken as they come and read later, by
    :func:`given_values`. ``--help`` beside a family lists its options.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {"ignore_unknown_options": True, "allow_extra_args": True}
        super().__init__(*args, **kwargs, context_settings=settings)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["flowvae.arguments"] = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                rows.setdefault(getattr(parameter, "section", ""), []).append(record)
        for section, records in rows.items():
            with formatter.section(section.capitalize() or "Options"):
                formatter.write_dl(records)
        chosen = list(_chosen(ctx.meta["flowvae.arguments"]))
        for kind, name in chosen:
            with formatter.section(f"Options of the {kind} {name}"):
                formatter.write_dl(_rows(kind, name))
        if not chosen:
            formatter.write_paragraph()
            formatter.write_text(
                "Each family has options of its own: --posterior NAME --help lists them, and so do "
                "--prior, --likelihood, --network and --objective. They are given like the others, "
                "as --num-flows 16, or, where two families have one, as --prior.num-flows 4."
            )


def _chosen(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The families that stand beside ``--help``."""
    for number, argument in enumerate(arguments):
        flag, _, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and flag in FAMILIES:
            value = value or next(iter(arguments[number + 1 :]), "")
            if value in FAMILIES[flag]:
                yield flag, value


def _rows(kind: str, name: str) -> list[tuple[str, str]]:
    fields = options_of(kind, name).model_fields
    rows = []
    for option, field in fields.items():
        type_ = _click_type(field.annotation)
        shown = _metavar(field.annotation) or {int: "INTEGER", float: "FLOAT", bool: "BOOLEAN"}.get(
            type_, "TEXT"
        )
        if isinstance(type_, click.Choice):
            shown = f"[{'|'.join(map(str, type_.choices))}]"
        rows.append((f"--{option.replace('_', '-')} {shown}", _help(field)))
    return rows or [("none", "")]


def given_values(flags: dict[str, Any], others: Sequence[str]) -> dict[str, Any]:
    """The values of the flags that were given, the options of families among them.

    Args:
        flags: those that the command knows.
        others: the arguments that were left: ``--name value`` and ``--name=value``.

    Raises:
        UserError: an argument is no flag, or has no value.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    rest = iter(others)
    for argument in rest:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not name:
            raise UserError(f"unexpected argument {argument!r}")
        if not equals:
            value = next(rest, None)
        name = name.replace("-", "_")
        if value is None:
            raise UserError(f"{name}: expected a value, got none")
        if name in given:
            raise UserError(f"{name}: expected once, got twice")
        given[name] = value
    return given

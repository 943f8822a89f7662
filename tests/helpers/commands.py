"""Whether commands that a document shows can be given: nothing is run."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache

import click

from flowvae.cli import cli
from flowvae.config import resolve_config
from flowvae.config.flags import given_values
from flowvae.config.options import options_of
from flowvae.registry import FAMILIES
from tests.helpers.documents import ROOT

__all__ = ["check_script", "check_span"]

_SEPARATORS = {"&&", "||", ";", "|", "&"}
_OF_TRAIN = {"preset", "config_file", "out", "resumed", "quiet", "trust"}


def check_script(text: str) -> int:
    """See that every command of a script exists and takes the flags it is given; how many."""
    commands = list(_commands(text))
    for words in commands:
        try:
            _check(words)
        except (AssertionError, click.ClickException, ValueError) as error:
            said = error.format_message() if isinstance(error, click.ClickException) else error
            raise AssertionError(f"{shlex.join(words)}: {said}") from None
    return len(commands)


def _commands(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _SEPARATORS:
                words.append(word)
            elif words:
                yield words
                words = []


def _check(words: Sequence[str]) -> None:
    program, *arguments = words
    if program in ("python", "python3") and arguments[:2] == ["-m", "pip"]:
        program, arguments = "pip", arguments[2:]
    if program == "flowvae":
        _flowvae(arguments)
    elif program in ("python", "python3", "torchrun"):
        place = arguments.index("-m") if "-m" in arguments else -1
        if place >= 0:
            _module(arguments[place + 1], arguments[place + 2 :])
        else:
            assert (ROOT / arguments[0]).is_file(), f"no file {arguments[0]}"
    elif program == "make":
        _make(arguments)
    elif program == "pip":
        _pip(arguments)
    elif program == "bash":
        assert (ROOT / arguments[0]).is_file(), f"no file {arguments[0]}"
    else:
        known = {"git": {"add", "clone", "commit", "push", "tag"}, "cd": None, "pytest": None}
        assert program in known, "unknown here; say <!-- not run: reason --> above the block"
        allowed = known[program]
        assert allowed is None or arguments[0] in allowed, f"no {program} {arguments[0]}"


def _flowvae(arguments: list[str]) -> None:
    if arguments in (["--help"], ["-h"], ["--version"]):
        return
    name, *rest = arguments
    assert name in cli.commands, f"expected one of {', '.join(cli.commands)}"
    try:
        context = cli.commands[name].make_context(name, rest)
    except click.exceptions.Exit:  # of --help
        return
    if name == "train":
        params = dict(context.params)
        own = {key: params.pop(key) for key in _OF_TRAIN}
        given = given_values(params, context.args)
        if own["resumed"]:
            assert not given.keys() - {"epochs", "device"}, "goes with no --resume"
        elif not own["config_file"]:
            resolve_config(preset=own["preset"] or "original", **given)


def _module(module: str, arguments: list[str]) -> None:
    if module == "flowvae":
        _flowvae(arguments)
        return
    if not module.startswith(("benchmarks.", "examples.")):
        assert module in ("build", "mkdocs", "pytest", "twine", "venv"), f"no module {module}"
        return
    file = ROOT / f"{module.replace('.', '/')}.py"
    assert file.is_file(), f"no module {module}"
    source = file.read_text(encoding="utf-8")
    for flag in _flags_of(arguments):
        assert f'"{flag}"' in source, f"{module} has no {flag}"


def _make(arguments: list[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"[\w-]+", " ".join(re.findall(r"^\.PHONY:(.*)$", text, re.M))))
    for word in arguments:
        name, given, value = word.partition("=")
        assert given or name in targets, f"no target {name}"
        if name == "ARGS" and "train" in arguments:
            _flowvae(["train", *shlex.split(value)])


def _pip(arguments: list[str]) -> None:
    assert arguments[0] == "install", f"no pip {arguments[0]}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in arguments[1:]:
        asked = re.fullmatch(r"(?:\.|flowvae)\[(.+)\]", word)
        for extra in asked[1].split(",") if asked else ():
            assert extra in project["optional-dependencies"], f"no extra {extra}"


def _flags_of(arguments: Sequence[str]) -> list[str]:
    return [word.partition("=")[0] for word in arguments if word.startswith("--")]


def check_span(text: str) -> None:
    """A command within a sentence, whose values may be letters: it and its flags exist."""
    words = text.split()
    if words[0] == "make":
        target = words[1].partition("…")[0]
        assert not re.fullmatch(r"[a-z-]+", target) or _make([target]) is None
        return
    if words[0] != "flowvae":
        words = words[words.index("-m") + 1 :]
    if words[0] != "flowvae":
        _module(words[0], [word for word in words[1:] if word != "[--…]"])
        return
    if words[1] not in cli.commands:
        assert words[1].startswith(("-", "…")), f"no command {words[1]}"
        return
    for flag in _flags_of(words[2:]):
        assert flag in _known_flags(words[1]), f"flowvae {words[1]} has no {flag}"


@cache
def _known_flags(name: str) -> set[str]:
    """Of the command; of `train` those of all families, too."""
    found = {flag for each in cli.commands[name].params for flag in each.opts} | {"--help"}
    if name == "train":
        for kind, registry in FAMILIES.items():
            for family in registry:
                options = (n.replace("_", "-") for n in options_of(kind, family).model_fields)
                found |= {f"--{prefix}{n}" for n in options for prefix in ("", f"{kind}.")}
    return found

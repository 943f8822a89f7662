"""From the hub: ``hf://OWNER/NAME``, or ``hf://OWNER/NAME@REVISION``, to a folder on the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from flowvae.errors import UserError, shown

__all__ = ["HUB", "complaint", "fetched", "hub_library", "is_on_hub", "repository_name"]

HUB = "hf://"
# A Path makes one slash of the two, and on Windows each a backslash.
_PLACE = re.compile(r"hf:/{1,2}([^@]*)(?:@([\w.-]+(?:/[\w.-]+)*))?")
_NAME = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)


def is_on_hub(path: str | PurePath) -> bool:
    """Whether it is a place on the hub rather than one on the disk."""
    return _slashed(path).startswith("hf:/")


def _slashed(path: str | PurePath) -> str:
    return str(path).replace("\\", "/")


def repository_name(name: str) -> str:
    """OWNER/NAME, checked.

    Raises:
        UserError: it is no such name.
    """
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise UserError(f"hub: expected OWNER/NAME, got {shown(name)}")
    return name


def hub_library() -> Any:
    """The library of the hub.

    Raises:
        UserError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            "hub: the library huggingface_hub is needed, which is not installed; "
            "pip install 'flowvae[hub]'"
        ) from None
    return huggingface_hub


def endpoint() -> str | None:
    """The hub to speak to, where it is not the usual one."""
    return os.environ.get("HF_ENDPOINT") or None


def fetched(path: str | PurePath, needed: str, useful: Sequence[str] = ()) -> Path:
    """Download some files of a repository, and none besides, into the cache of the library.

    Args:
        path: ``hf://OWNER/NAME``, perhaps with ``@REVISION``.
        needed: a file without which it is no repository of flowvae's.
        useful: files that are taken where they are there.

    Returns:
        Their folder, of one revision.

    Raises:
        UserError: the library is not installed, the repository or the network is not there, or the
            needed file is not.
    """
    match = _PLACE.fullmatch(_slashed(path))
    if match is None or ".." in (match[2] or ""):
        raise UserError(f"hub: expected {HUB}OWNER/NAME or …@REVISION, got {shown(str(path))}")
    name, revision = repository_name(match[1]), match[2]
    library = hub_library()
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        folder = library.snapshot_download(
            name, revision=revision, allow_patterns=[needed, *useful], endpoint=endpoint()
        )
    except Exception as error:  # noqa: BLE001  the library and those beneath it raise of many kinds
        raise UserError(complaint(name, error)) from None
    if not (Path(folder) / needed).is_file():
        raise UserError(f"hub: {name} is no repository of flowvae's: it has no {needed}")
    return Path(folder)


def complaint(name: str, error: Exception) -> str:
    """What went wrong between us and the hub, in one line."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    kinds = {kind.__name__ for each in chain for kind in type(each).__mro__}
    answers = [getattr(each, "response", None) for each in chain]
    status = next((each.status_code for each in answers if each is not None), None)
    login = "log in by 'hf auth login', or set HF_TOKEN"
    if "GatedRepoError" in kinds:
        return f"hub: {name} asks for consent on its page, and for a login; {login}"
    if "RevisionNotFoundError" in kinds:
        return f"hub: {name} has no such revision"
    if "RepositoryNotFoundError" in kinds:
        return f"hub: there is no repository {name}, or it is private; if it is yours, {login}"
    if status in (401, 403):
        return f"hub: not allowed to do this with {name}; {login}, with a token that may write"
    unreachable = {"ConnectError", "ConnectionError", "TimeoutException", "LocalEntryNotFoundError"}
    if kinds & unreachable:
        where = endpoint() or "the Hugging Face hub"
        return f"hub: cannot reach {where} for {name}; is there a network?"
    reason = " ".join(str(chain[-1]).split())[:300] or type(chain[-1]).__name__
    return f"hub: {name}: {reason}"

"""The documents: their blocks of code, their links, and what a link can point to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["DOCUMENTS", "ROOT", "Block", "anchors", "blocks", "links", "prose"]

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
}

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})\s*(\S*)")
_MARK = re.compile(r"<!-- (given|not run): (.+?) -->$")
_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)>\s]+)>?[^)]*\)|(?:src|href)=\"([^\"]+)\"")
_REFERENCE = re.compile(r"^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block.

    Args:
        document: its name in ``DOCUMENTS``.
        line: of the fence.
        language: what stands behind the fence.
        text: what is in the block.
        given: names that the text around it has explained, by ``<!-- given: a, b -->``.
        not_run: a reason, by ``<!-- not run: reason -->``.
    """

    document: str
    line: int
    language: str
    text: str
    given: tuple[str, ...]
    not_run: str

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """The blocks of all documents in these languages."""
    found = [block for document in DOCUMENTS for block in _blocks(document)]
    return [block for block in found if block.language in languages]


def _blocks(document: str) -> Iterator[Block]:
    lines = DOCUMENTS[document].read_text(encoding="utf-8").splitlines()
    opened, before = None, ""
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                opened = (number, *fence.groups(), before)
            elif line.strip():
                before = line
        elif fence and fence[2] == opened[2] and not fence[3]:
            first, indent, _, language, above = opened
            text = "\n".join(each.removeprefix(indent) for each in lines[first : number - 1])
            mark = _MARK.search(above)
            kind, said = mark.groups() if mark else ("", "")
            given = tuple(said.split(", ")) if kind == "given" else ()
            yield Block(document, first, language, text, given, said if kind == "not run" else "")
            opened, before = None, ""
    assert opened is None, f"{document}:{opened and opened[0]}: a block without an end"


def prose(document: str) -> str:
    """The text without blocks of code and comments; spans of code stay."""
    kept, fence = [], None
    for line in DOCUMENTS[document].read_text(encoding="utf-8").splitlines():
        found = _FENCE.match(line)
        if found and fence in (None, found[2]):
            fence = None if fence else found[2]
        elif fence is None:
            kept.append(line)
    return re.sub(r"<!--.*?-->", "", "\n".join(kept), flags=re.DOTALL)


def links(document: str) -> list[str]:
    """Where its links, pictures and frames point to."""
    text = _CODE.sub("", prose(document))
    return [a or b for a, b in _LINK.findall(text)] + _REFERENCE.findall(text)


def anchors(path: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them; mkdocs checks its own."""
    document = path.resolve().relative_to(ROOT).as_posix()
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?)\s*$", prose(document), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.replace("`", ""))
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        again = 0
        while (each := f"{anchor}-{again}" if again else anchor) in found:
            again += 1
        found.add(each)
    return found

"""Writing measured results into documents."""

from __future__ import annotations

from pathlib import Path

__all__ = ["replace_between"]


def replace_between(file: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name -->`` and ``<!-- /name -->`` in a Markdown file."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before = file.read_text(encoding="utf-8")
    if start not in before or end not in before:
        raise SystemExit(f"{file}: expected the marks {start} and {end}")
    head, tail = before.split(start)[0], before.split(end)[1]
    file.write_text(f"{head}{start}\n{text}\n{end}{tail}", encoding="utf-8")

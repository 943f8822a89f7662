"""Text of others inside Markdown, where it must stay text."""

from __future__ import annotations

import re
from typing import Any

from flowvae.errors import one_line

__all__ = ["code_text", "plain_text"]


def plain_text(value: Any) -> str:
    """Text that is no Markdown, whatever it holds.

    Examples:
        >>> plain_text([64, 32]), plain_text(None), plain_text("*a*")
        ('64×32', 'none', '\\\\*a\\\\*')
    """
    if isinstance(value, list | tuple):
        value = "×".join(map(str, value)) or None
    text = "none" if value is None else one_line(str(value))
    return re.sub(r"[\\`*\[\]<>|]", r"\\\g<0>", text)


def code_text(text: str) -> str:
    """A span of code that the text cannot end.

    Examples:
        >>> code_text("a`b")
        "`a'b`"
    """
    return f"`{one_line(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"

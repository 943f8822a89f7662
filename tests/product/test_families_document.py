"""docs/families.md says what the registries say."""

from __future__ import annotations

import pytest

from benchmarks.families import DOCUMENT, REGISTRIES, table


@pytest.mark.parametrize("mark", REGISTRIES)
def test_the_tables_are_those_of_the_registries(mark):
    text = DOCUMENT.read_text(encoding="utf-8")
    shown = text.split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0].strip()
    assert shown == table(REGISTRIES[mark]), "run `python -m benchmarks.families`"

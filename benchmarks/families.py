"""The tables of ``docs/families.md``, from the registries and the classes' own docstrings.

    python -m benchmarks.families

A test compares the document with what this makes, so a new family is in the document or fails.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from benchmarks.report import replace_between
from flowvae.registry import LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS, Registry

DOCUMENT = Path(__file__).parents[1] / "docs" / "families.md"
REGISTRIES = {
    "posterior-table": POSTERIORS,
    "prior-table": PRIORS,
    "likelihood-table": LIKELIHOODS,
    "network-table": NETWORKS,
}


def main() -> None:
    for mark, registry in REGISTRIES.items():
        replace_between(DOCUMENT, mark, table(registry))


def table(registry: Registry) -> str:
    """Name, first sentence, support (of likelihoods) and sources of every family."""
    supports = registry is LIKELIHOODS
    head = [f"`--{registry.kind}`", "what it is", *(["data"] if supports else []), "source"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in registry:
        family = registry[name]
        text = inspect.getdoc(family) or ""
        first = " ".join(text.split("\n\n")[0].split()).rstrip(".").replace("|", "\\|")
        source = text.split("Source:")[1] if "Source:" in text else ""
        numbers = re.findall(r"arXiv (\d{4}\.\d{4,5})", source)
        links = ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in numbers)
        support = [family.support.description] if supports else []
        lines.append(f"| {' | '.join([f'`{name}`', first, *support, links])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""``flowvae explore``: the page of a run."""

from __future__ import annotations

import html
import json
import re
from importlib import resources
from pathlib import Path

from flowvae.explorer.content import page_content
from flowvae.files import suffix_among, write_text
from flowvae.runs import Run, RunLike, opened

__all__ = ["Explorer", "explore"]

# In the order of their dependence. The first ones also run in a worker, which takes their text.
_CORE = ("numbers", "model", "truth", "refine", "worker")
_APP = ("plane", "data", "condition", "stored", "posterior", "map", "app")
_IMPORT = re.compile(r"^import \{[^}]*\} from \"\./\w+\.js\";\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=async function|function|class|const)", re.MULTILINE)


class Explorer:
    """The page of a run; in a notebook it shows itself.

    Args:
        path: the HTML file, which needs nothing beside it.
        height: in a notebook, in pixels.
    """

    def __init__(self, path: Path, height: int = 900) -> None:
        self.path, self.height = path, height

    def __repr__(self) -> str:
        return f"Explorer({str(self.path)!r})"

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"), quote=True)
        style = f"width: 100%; height: {self.height}px; border: 0"
        # Scripts run, but see nothing of the notebook: the page may be of a stranger's run.
        return f'<iframe sandbox="allow-scripts" srcdoc="{page}" style="{style}"></iframe>'


def explore(
    run: RunLike,
    *,
    out: str | Path | None = None,
    data: str | None = None,
    device: str = "auto",
) -> Explorer:
    """Write one HTML file in which the run can be explored, in any browser and without a network.

    With D = 2 and a planar or Gaussian posterior the model itself is in the page: draw an image or
    pick a test datum, and q(z|x) after each flow, the true posterior p(z|x), log p(x), the ELBO and
    KL(q ‖ p(z|x)) are computed there; q can be refined step by step. In other dimensions the page
    shows directions of latent space, traversals, reconstructions and neighbours. Models of other
    families are shown by what was computed for some test data, and the page says so. Of a
    conditional run a person chooses the condition that is decoded under.

    Args:
        run: a run, or its folder.
        out: the file; ``explore.html`` in the run's folder if not given.
        data: other data of the same shape.
        device: where to compute, for a run given by its folder.

    Returns:
        The page, which shows itself in a notebook.

    Raises:
        UserError: ``out`` is no .html file, or the run or its data cannot be read.

    Examples:
        >>> import flowvae, numpy as np
        >>> from flowvae.data import Dataset
        >>> pixels = np.random.rand(200, 6, 5)
        >>> data = Dataset.from_arrays(pixels[:150], pixels[150:])
        >>> run = flowvae.train(dataset=data, out=tmp_path / "run", epochs=1,
        ...                     evaluation_samples=4, progress=False)
        >>> page = flowvae.explore(run)
        >>> page.path.name, "<canvas" in page.path.read_text(encoding="utf-8")
        ('explore.html', True)
    """
    if out is not None:
        suffix_among(out, ".html", ".htm")
    run = opened(run, device, data)
    file = run.path / "explore.html" if out is None else Path(out)
    write_text(file, _page(run))
    return Explorer(file)


def _page(run: Run) -> str:
    spec, numbers = page_content(run)
    # In a script a name of a class or a column must not be able to end the script.
    text = json.dumps(spec, allow_nan=False).replace("<", "\\u003c")
    parts = {
        "style": _source("style.css"),
        "spec": text,
        "bytes": numbers,
        "core": _bundle(_CORE),
        "app": _bundle(_APP),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _source("index.html"))


def _bundle(names: tuple[str, ...]) -> str:
    """ES modules as one script: a page opened as a file cannot import others."""
    sources = (_EXPORT.sub("", _IMPORT.sub("", _source(f"{name}.js"))) for name in names)
    return "\n".join(sources)


def _source(name: str) -> str:
    return (resources.files("flowvae.explorer") / "page" / name).read_text(encoding="utf-8")

"""What a notebook shows of a run: settings, figures with their errors, status and a picture.

Whatever a file says is escaped, and nothing has a colour of its own: it is the notebook's, light or
dark.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from flowvae.data.columns import condition_in_words
from flowvae.data.images import opened_picture
from flowvae.errors import UserError
from flowvae.evaluation import Evaluation
from flowvae.likelihoods import measure_of
from flowvae.progress import elbo_name
from flowvae.runs import Run

__all__ = ["run_html"]

# The first of these that was drawn is shown.
_PICTURES = ("posterior", "latent_space", "samples", "learning_curves")
_LARGEST_PICTURE = (960, 1280)  # pixels: it is kept in the notebook's file
_TABLE = "border-collapse: collapse; margin: 0.5em 0; color: inherit; background: none"
_NAME = "text-align: left; padding: 0.1em 1.5em 0.1em 0; font-weight: normal; opacity: 0.75"
_VALUE = "text-align: left; padding: 0.1em 0"


def run_html(run: Run) -> str:
    """A run as HTML, from what is in its folder: nothing is computed, no data is read."""
    facts = [*_settings(run), *_results(run)]
    rows = "".join(
        f'<tr><th style="{_NAME}">{escape(name)}</th><td style="{_VALUE}">{escape(value)}</td></tr>'
        for name, value in facts
    )
    return (
        f"<div><strong>flowvae run</strong> <code>{escape(str(run.path))}</code>"
        f'<table style="{_TABLE}"><tbody>{rows}</tbody></table>{_picture(run)}</div>'
    )


def _settings(run: Run) -> list[tuple[str, str]]:
    config, model = run.config, run.model
    shape = " x ".join(map(str, model.data_shape))
    if model.columns is not None:
        names = [column.name for column in model.columns]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        shape = f"columns {', '.join(names[:8])}{more}"
    K = config.model.posterior.options().get("num_flows")
    more = []
    if model.condition is not None:
        labelled = config.data.labelled
        some = "" if labelled is None else f", {labelled:,} of the train data labelled"
        more.append(("conditioned on", condition_in_words(model.condition) + some))
    if model.missing:
        seen = "" if model.missingness is None else ", and of which these are"
        more.append(("missing values", f"may be; the likelihood is of those that are there{seen}"))
    return [
        ("status", _or_complaint(lambda: _status(run))),
        ("preset", str(config.preset)),
        ("data", f"{config.data.source} ({shape}), binarization {config.data.binarization}"),
        *more,
        ("latent dimensions D", str(model.latent_dim)),
        ("posterior", config.model.posterior.name + ("" if K is None else f", K = {K} flows")),
        ("prior", config.model.prior.name),
        ("likelihood", config.model.likelihood.name),
        ("seed", str(config.seed)),
    ]


def _status(run: Run) -> str:
    """How far it is: from the metrics, and from what the command that wrote it says."""
    done, epochs = len(run.metrics), run.config.training.epochs
    file = run.path / "environment.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        status = about.get("status") or "unknown"
    except (OSError, ValueError, AttributeError, RecursionError):
        status = f"unknown, {file.name} is corrupt"
    return f"{status}, {done} of {epochs} epochs"


def _results(run: Run) -> list[tuple[str, str]]:
    """The test figures, with what is needed to read them rightly."""
    try:
        found = run.evaluation
        if found is None:
            return [("test figures", "none yet; flowvae.evaluate(run) makes them")]
        return [*_figures(run, found)]
    except UserError as error:
        return [("test figures", str(error))]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [("test figures", f"evaluation.json is corrupt: {error!r}")]


def _figures(run: Run, found: Evaluation) -> list[tuple[str, str]]:
    elbo = elbo_name(found.pseudo_likelihood)
    bound = f"{found.samples}-sample bound on {found.of}"
    figures = [(elbo, found["elbo"]), (bound, found["iw_bound"]), ("KL(q ‖ p(z))", found["kl"])]
    if found.refined is not None:
        after = f"after {found.refine} steps for each datum"
        figures += [
            (f"{elbo} {after}", found.refined["elbo"]),
            (f"{bound} {after}", found.refined["iw_bound"]),
        ]
    measure = measure_of(run.model.likelihood, not found.pseudo_likelihood)
    kind = "p(x) is a " + measure
    if found.pseudo_likelihood:
        kind += " of grey pixels: never compare it with results on binary pixels"
    count = f"{found.count:,} {found.split} data"
    return [
        *((name, value.shown(3)) for name, value in figures),
        ("measured on", f"{count} of {found.data}; nats per datum, mean ± standard error"),
        ("measure", kind),
    ]


def _or_complaint(value: Callable[[], str]) -> str:
    try:
        return value()
    except UserError as error:
        return str(error)


def _picture(run: Run) -> str:
    """The main picture of the run's folder, small enough to be kept in a notebook."""
    for name in _PICTURES:
        file = run.figures / f"{name}.png"
        if file.is_file() and (png := _small(file)) is not None:
            text = base64.b64encode(png).decode("ascii")
            alt = name.replace("_", " ")
            return (
                f'<img alt="{alt}" src="data:image/png;base64,{text}" '
                'style="max-width: 100%; background: white">'
            )
    return "<p>No pictures yet; <code>flowvae.draw_figures(run)</code> draws them.</p>"


def _small(file: Path) -> bytes | None:
    """A picture's bytes, reduced where it is large; none where it cannot be read."""
    try:
        with opened_picture(file, str(file)) as image:
            reduced: Any = image.convert("RGB")
            reduced.thumbnail(_LARGEST_PICTURE)
            small = io.BytesIO()
            reduced.quantize(128).save(small, format="PNG", optimize=True)
            return small.getvalue()
    except (UserError, OSError):
        return None

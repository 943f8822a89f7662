"""What a person sees while it runs: a live line on a terminal or in a notebook, or plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from rich import progress
from rich.console import Console

from flowvae.config import Config
from flowvae.data import Dataset
from flowvae.data.summary import conditions_and_gaps
from flowvae.evaluation import Evaluation
from flowvae.training import RunningMeans

__all__ = ["Progress", "elbo_name", "evaluation_text"]

_REFRESH_SECONDS = 0.25
_LINE_SECONDS = 20.0


def elbo_name(pseudo_likelihood: bool) -> str:
    """``ELBO``, or ``pseudo-ELBO`` on grey pixels, so that the two are not confused."""
    return "pseudo-ELBO" if pseudo_likelihood else "ELBO"


class Progress:
    """Progress of a training run, on standard error.

    Args:
        config, dataset, folder: the run, for the heading and the totals.
        pseudo: whether its ELBO is of a pseudo-likelihood.
        enabled: show anything at all.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        folder: Path,
        pseudo: bool,
        enabled: bool = True,
    ) -> None:
        self._console = Console(stderr=True, quiet=not enabled, highlight=False, markup=False)
        self._notebook = _NotebookLine() if enabled and self._console.is_jupyter else None
        self._live = enabled and (self._console.is_terminal or self._console.is_jupyter)
        self._wide = self._console.width >= 130
        self._epochs = config.training.epochs
        self._steps = -(-len(dataset.train) // config.training.batch_size)
        self._elbo = elbo_name(pseudo)
        K = config.model.posterior.options().get("num_flows")
        flows = "" if K is None else f"K = {K}, "
        grey = "; grey pixels: every figure is a pseudo-likelihood"
        self._heading = (
            f"Training {config.preset} ({flows}D = {config.model.latent_dim}) on "
            f"{dataset.name}: {len(dataset.train):,} train, {len(dataset.test):,} test"
            f"{grey if pseudo else f'; binarization {dataset.binarization}'}"
        )
        self._heading += "".join(f"; {text}" for text in conditions_and_gaps(dataset))
        self._folder = folder
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            *([progress.BarColumn(bar_width=10)] if self._wide else []),
            progress.TextColumn("{task.fields[terms]}", markup=False),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task(
            f"epoch 1/{self._epochs}", total=self._epochs * self._steps, terms="…"
        )
        self._done = self._before = 0  # updates in this call, and in earlier ones
        self._test = ""

    def goes_on_at(self, epochs: int, updates: int) -> None:
        """Tell how far a run that is resumed had come: epochs, and updates of the next one."""
        self._before = epochs * self._steps + updates

    def __enter__(self) -> Progress:
        self._start = self._shown = time.perf_counter()
        if self._notebook is not None:
            self._in_notebook(f"epoch 1/{self._epochs}  …")
            return self
        self._console.print(self._heading, soft_wrap=True)
        self._console.print(f"Run folder: {self._folder}", soft_wrap=True)
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live and self._notebook is None:
            self._bar.stop()

    def _in_notebook(self, line: str) -> None:
        """Heading, folder and one line, in place of what was shown of this training."""
        if self._notebook is not None:
            self._notebook.show(f"{self._heading}\nRun folder: {self._folder}\n{line}")

    def step(self, epoch: int, means: RunningMeans) -> None:
        """After each step; a few times a second the live line is drawn anew."""
        self._done += 1
        now = time.perf_counter()
        if not self._live or now - self._shown < _REFRESH_SECONDS:
            return
        self._shown = now
        description = f"epoch {epoch}/{self._epochs}"
        terms = f"{self._elbo} {self._found(means.read())} · {self._pace()}"
        if self._notebook is not None:
            self._in_notebook(f"{description}  {terms}")
            return
        self._bar.update(
            self._task, completed=self._before + self._done, description=description, terms=terms
        )
        self._bar.refresh()

    def epoch(self, row: dict[str, float]) -> None:
        """After each epoch."""
        self._test = f" · test {row['test_elbo']:.2f}{_accuracy(row)}"
        if self._live and self._notebook is None:
            return
        train = {name.removeprefix("train_"): value for name, value in row.items()}
        line = (
            f"epoch {row['epoch']:>3.0f}/{self._epochs}  {self._elbo}: train {_terms(train)}"
            f"{self._test} · {self._pace()}"
        )
        if self._notebook is not None:
            self._in_notebook(line)
        else:
            self._console.print(line, soft_wrap=True)

    def _found(self, found: dict[str, float]) -> str:
        if self._wide:
            return _terms(found) + self._test
        return f"{found['elbo']:.2f} = {found['log_likelihood']:.2f} - KL {found['kl']:.2f}"

    def _pace(self) -> str:
        if self._done == 0:
            return "no update was left of it"  # of an epoch that ended just before a kill
        per_second = self._done / max(time.perf_counter() - self._start, 1e-9)
        left = max(0, self._epochs * self._steps - self._before - self._done) / per_second
        return f"{per_second:.0f} steps/s · {_clock(left)} left"

    @staticmethod
    @contextmanager
    def bar(what: str, total: float, enabled: bool = True) -> Iterator[Callable[[float], None]]:
        """A bar with the time left for other long work; gives the function to call with the amount
        done. Where there is no terminal, a line now and then; in a notebook one that changes.
        """
        console = Console(stderr=True, quiet=not enabled, highlight=False, markup=False)
        if enabled and console.is_jupyter:
            with _notebook_bar(what, total) as advance:
                yield advance
            return
        if not (enabled and console.is_terminal):
            console.print(f"{what} …")
            yield _plain_lines(console, what, total)
            return
        with progress.Progress(console=console, transient=True) as shown:
            task = shown.add_task(what, total=total)
            yield lambda count: shown.advance(task, count)


class _NotebookLine:
    """One output of a notebook's cell, whose text is replaced: rich would print it anew each time.

    The notebook keeps the last text, with or without somebody watching.
    """

    def __init__(self) -> None:
        self._output: Any = None

    def show(self, text: str) -> None:
        content = {"text/plain": text}
        if self._output is None:
            # A notebook has IPython; flowvae does not need it.
            display = import_module("IPython.display").display
            self._output = display(content, raw=True, display_id=True)
        else:
            self._output.update(content, raw=True)


@contextmanager
def _notebook_bar(what: str, total: float) -> Iterator[Callable[[float], None]]:
    line = _NotebookLine()
    start = shown = time.perf_counter()
    done = 0.0
    line.show(f"{what} …")

    def advance(amount: float) -> None:
        nonlocal done, shown
        done += amount
        now = time.perf_counter()
        if now - shown >= _REFRESH_SECONDS and 0 < done < total:
            shown = now
            left = (now - start) * (total - done) / done
            line.show(f"{what}: {done / total:.0%} · {_clock(left)} left")

    yield advance
    line.show(f"{what}: done in {_clock(time.perf_counter() - start)}")


def _plain_lines(console: Console, what: str, total: float) -> Callable[[float], None]:
    start = shown = time.perf_counter()
    done = 0.0

    def advance(amount: float) -> None:
        nonlocal done, shown
        done += amount
        now = time.perf_counter()
        if now - shown >= _LINE_SECONDS and 0 < done < total:
            shown = now
            left = (now - start) * (total - done) / done
            console.print(f"{what}: {done / total:.0%} · {_clock(left)} left", soft_wrap=True)

    return advance


def _terms(found: dict[str, float]) -> str:
    return (
        f"{found['elbo']:.2f} = log p(x|z) {found['log_likelihood']:.2f} - KL {found['kl']:.2f}"
        f" (Σ ladj {found['ladj']:.2f})"
    )


def _accuracy(row: dict[str, float]) -> str:
    """The classifier's share of right classes on each split, where there is one."""
    shares = [
        f"{name} {row[f'{name}_accuracy']:.1%}"
        for name in ("train", "validation", "test")
        if f"{name}_accuracy" in row
    ]
    return f" · classified {', '.join(shares)}" if shares else ""


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def evaluation_text(evaluation: Evaluation) -> str:
    """What ``flowvae train`` and ``flowvae evaluate`` print."""
    pseudo = evaluation.pseudo_likelihood
    S = evaluation.samples
    names = {
        "elbo": elbo_name(pseudo),
        "log_likelihood": "  E log p(x|z)",
        "kl": "  KL(q(z|x) ‖ p(z))",
        "log_prior": "    E log p(z)",
        "log_base": "    E log q₀(z₀|x)",
        "ladj": "    E Σ log|det| of the flows",
        "iw_bound": f"{S}-sample bound on {evaluation.of}" + (" (pseudo)" if pseudo else ""),
    }
    lines = [
        f"{evaluation.count:,} {evaluation.split} data of {evaluation.data}, binarization "
        f"{evaluation.binarization}, {S} sample{'s' if S > 1 else ''} of z per datum; "
        "nats per datum, mean ± standard error"
    ]
    shown = [(name, evaluation[key]) for key, name in names.items()]
    if evaluation.refined is not None:
        steps = f"{evaluation.refine} step{'s' if evaluation.refine > 1 else ''}"
        after = f"after {steps} for each datum"
        shown += [
            (f"{names[key]}, {after}", evaluation.refined[key]) for key in ("elbo", "iw_bound")
        ]
    width = max(36, *(len(name) + 1 for name, _ in shown))
    for name, value in shown:
        number = f"{value.mean:.3f}"
        lines.append(f"  {name:<{width}}{number:>10}{value.shown(3).removeprefix(number)}")
    if pseudo:
        lines.append(
            "Grey pixels: log p(x|z) is a pseudo-likelihood; never compare it with results on "
            "binary pixels."
        )
    return "\n".join(lines)

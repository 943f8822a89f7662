"""``flowvae export``: a run's model for other runtimes, all of it or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowvae.errors import UserError, shown
from flowvae.exporting.about import ABOUT, about, is_export, readme
from flowvae.exporting.check import check_inputs, difference
from flowvae.exporting.graphs import Graph, graphs_of, own_copy
from flowvae.exporting.programs import (
    need_packages,
    onnx_bytes,
    recorded,
    runner_of,
    torch_bytes,
)
from flowvae.files import replacing_folder, write_bytes, write_json, write_text
from flowvae.flows.portable import NotPortableError
from flowvae.runs import RunLike, opened

__all__ = ["FORMATS", "export"]

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}


def export(run: RunLike, format: str = "onnx", out: str | Path | None = None) -> Path:  # noqa: A002
    """Write a model for other runtimes: ONNX, or programs of ``torch.export``.

    Every part takes and gives tensors of a batch of any size B; noise is an input.

        encode     x (B, P) -> μ, log σ² (B, D) and the flows' parameters
        flow       ε (B, D) and those -> z (B, D), log q(z|x) (B,)
        decode     z (B, D) -> the parameters of p(x|z), and its mean (B, P)
        prior      ε (B, D) -> z ~ p(z) (B, D); of a mixture also u (B,) that chooses a component
        log_prior  z (B, D) -> log p(z) (B,)

    Of a conditional model ``encode`` and ``decode`` take the condition (B, C) as a further input,
    and so do ``prior`` and ``log_prior`` where the prior depends on it. With a classifier there is
    ``classify``, x (B, P) -> log q(y|x) (B, K). Where values may be missing, they are NaN in x.

    Names, shapes, scaling, what a condition means and the likelihood are in ``export.json`` beside
    them. Each file is run and compared with PyTorch before anything is kept.

    Args:
        run: a run, or its folder.
        format: ``"onnx"`` or ``"torch"``.
        out: a folder, new, empty or an earlier export; ``export/FORMAT`` in the run if not given.

    Returns:
        The folder.

    Raises:
        UserError: a package is missing, the folder is in use, or a part cannot be exported or
            differs from PyTorch.

    Examples:
        >>> import flowvae
        >>> config = flowvae.preset("original")
        >>> run = flowvae.Run(tmp_path, config, flowvae.build_vae(config, (6, 5)).eval())
        >>> folder = flowvae.export(run, format="torch")
        >>> sorted(file.stem for file in folder.iterdir())
        ['README', 'decode', 'encode', 'export', 'flow', 'log_prior', 'prior']
    """
    if format not in FORMATS:
        raise UserError(f"format: expected {' or '.join(FORMATS)}, got {shown(format)}")
    need_packages(format)
    run = opened(run, "cpu")
    out = run.path / "export" / format if out is None else Path(out)
    _check_folder(out)
    model = own_copy(run.model)
    needed, useful = graphs_of(model, run.config.model.posterior.name)
    left_out: dict[str, str] = {}
    contents = {}
    for graph in (*needed, *useful):
        try:
            contents[graph.name] = _content(graph, format)
        except (NotPortableError, NotImplementedError, UserError) as error:
            if graph in needed:
                reason = str(error).removeprefix("export: ")
                name = run.config.model.posterior.name
                raise UserError(f"export: {graph.name} of posterior {name}: {reason}") from None
            left_out[graph.name] = str(error).removeprefix("export: ")
    graphs = [graph for graph in (*needed, *useful) if graph.name in contents]
    found = _differences(graphs, contents, format, model)
    description = about(run, model, format, graphs, left_out, found, FORMATS[format])
    with replacing_folder(out) as folder:
        for name, content in contents.items():
            write_bytes(folder / f"{name}{FORMATS[format]}", content)
        write_json(folder / ABOUT, description)
        write_text(folder / "README.md", readme(description))
    return out


def _content(graph: Graph, kind: str) -> bytes:
    program = recorded(graph)
    return onnx_bytes(graph, program) if kind == "onnx" else torch_bytes(graph, program)


def _differences(
    graphs: Sequence[Graph], contents: dict[str, bytes], kind: str, model: Any
) -> dict[str, dict[str, float]]:
    inputs = check_inputs(model, graphs)
    return {
        graph.name: dict(
            difference(
                graph,
                runner_of(kind, contents[graph.name]),
                inputs[graph.name],
                f"{graph.name}{FORMATS[kind]}",
            )
        )
        for graph in graphs
    }


def _check_folder(out: Path) -> None:
    """New, empty, or an earlier export and nothing else."""
    # Another folder takes its place, which systems refuse or the shell would not see.
    if Path.cwd().is_relative_to(out.resolve()):
        raise UserError(
            f"out: expected a folder that is not the current one, nor above it, got {out}"
        )
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or is_export(out))):
        raise UserError(
            f"out: expected a new or empty folder, or an earlier export, got {out}, which holds "
            "something else"
        )

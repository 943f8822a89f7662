"""``flowvae export``."""

from __future__ import annotations

from pathlib import Path

import click

from flowvae.commands.options import open_with, out_option, trust_option

__all__ = ["export"]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx", "torch"]),
    default="onnx",
    help="onnx, or programs of torch.export.  [onnx]",
)
@out_option("A folder, new, empty or an earlier export.  [RUN/export/FORMAT]")
@trust_option
def export(run: Path, kind: str, out: Path | None, trust: bool) -> None:
    """Write the model for other runtimes: encode, flow, decode, prior.

    Noise is an input of every part. Each file is compared with PyTorch before anything is kept;
    export.json says what the tensors are.
    """
    from flowvae.exporting import export as run_export

    folder = run_export(open_with(run, {"device": "cpu", "trust": trust}), kind, out)
    names = sorted(file.name for file in folder.iterdir())
    click.echo(f"Wrote {folder}: {', '.join(names)}")

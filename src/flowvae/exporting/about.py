"""What is written beside an exported model: ``export.json`` and ``README.md``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from flowvae.data.columns import columns_to_json
from flowvae.data.conditions import classes_of
from flowvae.exporting.check import BATCHES, TOLERANCE
from flowvae.exporting.graphs import Graph, Port
from flowvae.exporting.programs import OPSET
from flowvae.markdown_text import plain_text
from flowvae.registry import LIKELIHOODS
from flowvae.runs import Run, package_version
from flowvae.vae import VAE

__all__ = ["ABOUT", "about", "is_export", "readme"]

ABOUT = "export.json"
_MOST_CLASSES = 20  # named on the page for people


def about(
    run: Run,
    model: VAE,
    kind: str,
    graphs: Sequence[Graph],
    left_out: Mapping[str, str],
    differences: Mapping[str, Mapping[str, float]],
    suffix: str,
) -> dict[str, Any]:
    """Everything one needs to use the files, in plain values."""
    described, data = run.config.model, run.config.data
    support = LIKELIHOODS[described.likelihood.name].support
    return {
        "version": 1,
        "format": kind,
        **({"opset": OPSET} if kind == "onnx" else {}),
        "flowvae": package_version("flowvae"),
        "torch": torch.__version__,
        "dtype": "float32",
        "latent_dim": model.latent_dim,
        "data_dim": model.data_dim,
        "data_shape": list(model.data_shape),
        "posterior": described.posterior.model_dump(mode="json"),
        "prior": described.prior.model_dump(mode="json"),
        "likelihood": described.likelihood.model_dump(mode="json"),
        "network": described.network.name,
        "data": {
            "source": data.public_source,
            "binarization": data.binarization,
            "values": _values(support.description, model),
            "columns": columns_to_json(model.columns),
            "missing": model.missing,
            "missingness": _missingness(model),
        },
        "condition": _condition(model),
        "graphs": {
            graph.name: {
                "file": f"{graph.name}{suffix}",
                "inputs": [_port(port) for port in graph.inputs],
                "outputs": [_port(port) for port in graph.output_ports()],
            }
            for graph in graphs
        },
        "left_out": dict(left_out),
        "check": {
            "batches": list(BATCHES),
            "tolerance": TOLERANCE,
            "measure": "max |a - b| / (1 + max |b|) over the values of a datum, b PyTorch's",
            "largest": {name: dict(each) for name, each in differences.items()},
        },
    }


def _missingness(model: VAE) -> dict[str, Any] | None:
    """What the weights of an imputation need beside log p(x_obs|z), where there is such a thing."""
    if model.missingness is None:
        return None
    return {
        "missing_with_probability": "1 / (1 + exp(-(offset + slope * x))) of each encoded number; "
        "of a one-hot code the slope of its one and the column's first offset",
        "offset": model.missingness.offset.tolist(),
        "slope": model.missingness.slope.tolist(),
    }


_ENCODED = "numeric (value - mean) / scale, binary 0 or 1, categorical one-hot"


def _values(support: str, model: VAE) -> str:
    missing = "; a value that is missing is NaN" if model.missing else ""
    if model.columns is None:
        return (
            f"{support}; 8-bit values are divided by 255; a datum is flattened in C order to (P,)"
            f"{missing}"
        )
    return f"a row is encoded by `columns`, in their order: {_ENCODED}{missing}"


def _condition(model: VAE) -> dict[str, Any] | None:
    """What the numbers of ``condition`` mean; none where there is none."""
    if model.condition is None:
        return None
    classes = classes_of(model.condition)
    return {
        "dim": model.condition_dim,
        "values": f"encoded by `columns`, in their order: {_ENCODED}",
        "columns": columns_to_json(model.condition),
        "classes": None if classes is None else list(classes),
    }


def _port(port: Port) -> dict[str, Any]:
    shape = ["B" if size is None else size for size in port.shape]
    return {"name": port.name, "shape": shape, "meaning": port.meaning}


def is_export(folder: Path) -> bool:
    """Whether a folder holds an export and nothing else."""
    try:
        described = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        files = {each["file"] for each in described["graphs"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    names = {file.name for file in folder.iterdir() if file.is_file()}
    return len(names) == len(list(folder.iterdir())) and names <= {*files, ABOUT, "README.md"}


def readme(described: Mapping[str, Any]) -> str:
    """A short page for people."""
    kind = {"onnx": "ONNX", "torch": "programs of torch.export"}[described["format"]]
    lines = [
        f"# A flowvae model as {kind}",
        "",
        f"A variational autoencoder of data with {described['data_dim']} values, "
        f"{described['latent_dim']} latent dimensions, posterior "
        f"`{described['posterior']['name']}`, prior `{described['prior']['name']}` and likelihood "
        f"`{described['likelihood']['name']}`. Every tensor is float32 and has the batch B first. "
        "Noise is an input: draw it as the table says.",
        "",
        f"Data: {described['data']['values']}.",
        *_condition_lines(described["condition"]),
        *_missingness_lines(described["data"]["missingness"]),
        "",
        "| file | inputs, in order | outputs, in order |",
        "|---|---|---|",
    ]
    for each in described["graphs"].values():
        ports = [", ".join(map(_shown, each[side])) for side in ("inputs", "outputs")]
        lines.append(f"| `{each['file']}` | {ports[0]} | {ports[1]} |")
    lines += ["", "| name | |", "|---|---|"]
    named = {
        port["name"]: port["meaning"]
        for each in described["graphs"].values()
        for port in (*each["inputs"], *each["outputs"])
    }
    lines += [
        f"| `{name}` | {meaning.replace('|', chr(92) + '|')} |" for name, meaning in named.items()
    ]
    for name, reason in described["left_out"].items():
        lines += ["", f"There is no `{name}`: {reason}."]
    largest = max(max(each.values()) for each in described["check"]["largest"].values())
    lines += [
        "",
        f"Compared with PyTorch {described['torch']} when it was written, at batches of "
        f"{' and '.join(map(str, described['check']['batches']))}: the largest difference is "
        f"{largest:.1e}, relative to 1 + the largest value of a datum. "
        f"`{ABOUT}` has all of this for programs. Written by flowvae {described['flowvae']}.",
    ]
    return "\n".join(lines) + "\n"


def _condition_lines(condition: Mapping[str, Any] | None) -> list[str]:
    if condition is None:
        return []
    names = ", ".join(plain_text(column["name"]) for column in condition["columns"])
    classes = condition["classes"] or []
    shown = ", ".join(plain_text(name) for name in classes[:_MOST_CLASSES])
    more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
    named = f" The classes are {shown}{more}." if classes else ""
    return [
        "",
        f"Conditioned on {names}, {condition['values']}; C = {condition['dim']}.{named}",
    ]


def _missingness_lines(missingness: Mapping[str, Any] | None) -> list[str]:
    if missingness is None:
        return []
    return [
        "",
        "A value is missing with a probability that depends on it, which is in no graph: "
        f"`{ABOUT}` has the curves under `missingness`, by which p(x|z) is to be weighted where "
        "values are filled in.",
    ]


def _shown(port: Mapping[str, Any]) -> str:
    return f"`{port['name']}` ({', '.join(map(str, port['shape']))})"

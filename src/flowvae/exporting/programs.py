"""From a graph to the bytes of a file, and from these to something that can be called."""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO

import jaxtyping
import numpy as np
import torch

from flowvae.errors import UserError
from flowvae.exporting.graphs import Graph
from flowvae.flows.portable import only_portable

__all__ = ["OPSET", "Runner", "need_packages", "onnx_bytes", "recorded", "runner_of", "torch_bytes"]

OPSET = 18  # of the standard operators of ONNX
_LEAST_TORCH = (2, 9)  # from there on .pt2 files can be written without a pickle
_LARGEST_ONNX = 2**31 - 2**20  # a file of ONNX is one message of protobuf, of less than 2 GiB

Runner = Callable[..., list[np.ndarray]]


def need_packages(kind: str) -> None:
    """See that what a format is made with is there.

    Raises:
        UserError: a package is not installed, or PyTorch is too old.
    """
    found = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if found < _LEAST_TORCH:
        least = ".".join(map(str, _LEAST_TORCH))
        raise UserError(f"export: expected PyTorch {least} or later, got {torch.__version__}")
    for package in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ():
        try:
            import_module(package)
        except ImportError:
            raise UserError(
                f"export: format onnx needs {package}, which is not installed; "
                "pip install 'flowvae[onnx]'"
            ) from None


def recorded(graph: Graph) -> torch.export.ExportedProgram:
    """The graph as a program for any batch, without what was on this machine.

    Raises:
        NotPortableError: it computes what other runtimes have no operation for.
        UserError: PyTorch cannot record it.
    """
    batch = torch.export.Dim("batch", min=1)
    inputs = tuple(graph.example.values())
    named = graph.module.forward.__code__.co_argcount - 1  # the others are one *tuple
    each = [{0: batch}] * len(inputs)
    shapes = (*each[:named], tuple(each[named:])) if len(inputs) > named else tuple(each)
    try:
        with torch.no_grad(), warnings.catch_warnings(), only_portable(), _unchecked_shapes():
            warnings.simplefilter("ignore")
            program = torch.export.export(graph.module, inputs, dynamic_shapes=shapes, strict=False)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"export: PyTorch cannot record {graph.name}: {_reason(error)}") from None
    for node in program.graph.nodes:
        # They name files of this machine.
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)
    return program


def onnx_bytes(graph: Graph, program: torch.export.ExportedProgram) -> bytes:
    """The program as a model of ONNX.

    Raises:
        UserError: ONNX lacks an operation, or the model is too large for one file.
    """
    size = sum(value.nbytes for value in program.state_dict.values())
    if size > _LARGEST_ONNX:
        raise UserError(
            f"export: {graph.name} has {size / 2**30:.1f} GiB of weights, and a file of ONNX holds "
            "less than 2; use format torch"
        )
    names = list(graph.example), list(graph.outputs)
    try:
        with warnings.catch_warnings(), _quiet_logs():
            warnings.simplefilter("ignore")
            found = torch.onnx.export(
                program,
                input_names=names[0],
                output_names=names[1],
                opset_version=OPSET,
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        raise UserError(f"export: ONNX cannot express {graph.name}: {_reason(error)}") from None
    assert found is not None  # noqa: S101 - for type checkers
    proto = found.model_proto
    for part in (proto.graph, *proto.functions):
        del part.metadata_props[:]
        for each in (*part.node, *part.value_info):
            del each.metadata_props[:]
            each.doc_string = ""
    return proto.SerializeToString()


def torch_bytes(graph: Graph, program: torch.export.ExportedProgram) -> bytes:
    """The program as an archive of ``torch.export``, in which nothing is pickled.

    Raises:
        UserError: this version of PyTorch would pickle a part of it.
    """
    program.example_inputs = None  # they would be pickled
    content = BytesIO()
    torch.export.save(program, content)
    found = content.getvalue()
    if (pickled := _pickled(found)) is not None:
        raise UserError(
            f"export: PyTorch {torch.__version__} would write a pickle, {pickled}, into "
            f"{graph.name}.pt2; use format onnx"
        )
    return found


def _pickled(content: bytes) -> str | None:
    """The first member of a .pt2 archive that is, or holds, a pickle."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        for name in archive.namelist():
            member = archive.read(name)
            if name.endswith("_config.json") and any(
                each.get("use_pickle") for each in json.loads(member).get("config", {}).values()
            ):
                return name
            # torch.save writes an archive with a pickle in it.
            if member.startswith(b"PK") or (member and "sample_inputs" in name):
                return name
    return None


def runner_of(kind: str, content: bytes) -> Runner:
    """What a file does: arrays in the order of the inputs, to arrays."""
    if kind == "onnx":
        return _onnx_runner(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(BytesIO(content)).module()

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [value.numpy() for value in module(*map(torch.from_numpy, inputs))]

    return run


def _onnx_runner(content: bytes) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        found = session.run(None, dict(zip(names, inputs, strict=True)))
        return [np.asarray(value) for value in found]

    return run


@contextmanager
def _unchecked_shapes() -> Iterator[None]:
    """A program would depend on B where checks of shapes compare it with other sizes."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not installed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """What it was in the end, in short: exporters wrap an error in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__

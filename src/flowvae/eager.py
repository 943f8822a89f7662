"""When tensors may be handed to code of our own, and when PyTorch must see every operation."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["HAS_NUMBA", "eager", "fit_for_kernels"]

HAS_NUMBA = find_spec("numba") is not None
_PLAIN = {Tensor, torch.nn.Parameter}


def eager(*tensors: Tensor) -> bool:
    """Whether nobody watches: no compiler or exporter, transform, dispatch mode or tensor subclass.

    What is computed then may be one node of the graph with a hand-written adjoint, outside of
    PyTorch's bookkeeping.
    """
    return (
        not torch.compiler.is_compiling()
        and {type(x) for x in tensors} <= _PLAIN
        and torch._C._functorch.peek_interpreter_stack() is None  # pyright: ignore
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None  # pyright: ignore
    )


def fit_for_kernels(*tensors: Tensor) -> bool:
    """Whether the kernels of :mod:`flowvae.kernels` may have them: on the CPU, none of them empty.

    They are of one dtype, and nobody watches.
    """
    dtype = tensors[0].dtype
    return (
        HAS_NUMBA
        and all(x.device.type == "cpu" and x.dtype == dtype and x.numel() > 0 for x in tensors)
        and eager(*tensors)
    )

"""The planar flow as operators of PyTorch: torch.compile, export and autocast see them as one node.

``flowvae::planar`` and ``flowvae::planar_inverse`` work on points (S, P, D) and parameter sets
(P, K, D), (P, K, D), (P, K); ``flowvae::planar_pullback`` is the adjoint of both. The first two
also give what only the adjoint needs: a_k and the end point in float64.
"""

import os
import warnings
from functools import cache, partial
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from flowvae.errors import one_line
from flowvae.flows import reference

__all__ = ["available", "planar", "planar_inverse", "planar_map"]

# What the kernels for a kind of device need.
_NEEDS = {"cpu": "numba", "cuda": "triton"}
_usable = {device: find_spec(package) is not None for device, package in _NEEDS.items()}
_tried: set[str] = set()


def available(device_type: str) -> bool:
    """Whether kernels for this kind of device can be used; says once why not."""
    if device_type not in _NEEDS:
        return False
    # dynamo, which may ask while it traces, is told what is known.
    if device_type not in _tried and not torch.compiler.is_compiling():
        _tried.add(device_type)
        if (reason := _why_not(device_type)) is not None:
            _usable[device_type] = False
            warnings.warn(
                f"planar flows run as plain PyTorch, several times slower on {device_type}: "
                f"{reason}",
                stacklevel=4,
            )
    return _usable[device_type]


def _why_not(device_type: str) -> str | None:
    package = _NEEDS[device_type]
    if find_spec(package) is None:
        return f"{package} is not installed; install it with: pip install {package}"
    if package == "numba" and os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "numba compiles nothing while NUMBA_DISABLE_JIT is set"
    try:
        _LAUNCHERS[device_type]()
    except Exception as error:  # noqa: BLE001 - whatever is broken about it
        return f"{package} cannot be used: {type(error).__name__}: {one_line(str(error)):.200}"
    return None


@cache
def _cpu() -> ModuleType:
    # numba takes half a second to import: not before the first flow is asked for.
    from flowvae.kernels.planar import cpu_launch

    return cpu_launch


@cache
def _cuda() -> ModuleType:
    from flowvae.kernels.planar import cuda

    return cuda


@torch.library.custom_op("flowvae::planar", mutates_args=(), device_types="cpu")
def planar(
    z: Tensor, w: Tensor, u: Tensor, b: Tensor, shift: float, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """z_K, Σ ladj_k and, if ``save``, what to keep."""
    return _cpu().forward(z, w, u, b, shift, save, inverted=False)


@torch.library.custom_op("flowvae::planar_inverse", mutates_args=(), device_types="cpu")
def planar_inverse(
    z_K: Tensor, w: Tensor, u: Tensor, b: Tensor, shift: float, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """z, -Σ ladj_k and, if ``save``, what to keep."""
    return _cpu().forward(z_K, w, u, b, shift, save, inverted=True)


@torch.library.custom_op("flowvae::planar_pullback", mutates_args=(), device_types="cpu")
def planar_pullback(
    w: Tensor,
    u: Tensor,
    b: Tensor,
    kept: Tensor,
    end_bar: Tensor,
    ladj_bar: Tensor,
    shift: float,
    inverted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the start, w, u and b."""
    return _cpu().backward(w, u, b, kept, end_bar, ladj_bar, shift, inverted)


@planar.register_kernel("cuda")
def _(z, w, u, b, shift, save):
    return _cuda().forward(z, w, u, b, shift, save, inverted=False)


@planar_inverse.register_kernel("cuda")
def _(z_K, w, u, b, shift, save):
    return _cuda().forward(z_K, w, u, b, shift, save, inverted=True)


@planar_pullback.register_kernel("cuda")
def _(w, u, b, kept, end_bar, ladj_bar, shift, inverted):
    return _cuda().backward(w, u, b, kept, end_bar, ladj_bar, shift, inverted)


def _fake_map(
    inverted: bool, z: Tensor, w: Tensor, u: Tensor, b: Tensor, shift: float, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    (S, P, D), K = z.shape, w.shape[1]
    on_cpu = z.device.type == "cpu"
    kept = _cpu().numbers_kept(S, P, K, D, inverted) if on_cpu else S * P * (K + D)
    kept = z.new_empty(kept if save else 0, dtype=torch.float64)
    return z.new_empty((S, P, D)), z.new_empty((S, P)), kept


planar.register_fake(partial(_fake_map, False))
planar_inverse.register_fake(partial(_fake_map, True))


@planar_pullback.register_fake
def _(w, u, b, kept, end_bar, ladj_bar, shift, inverted):
    return end_bar.new_empty(end_bar.shape), *(x.new_empty(x.shape) for x in (w, u, b))


def _batched(gradient: Tensor) -> bool:
    """Whether it is of several backward passes at once, ``is_grads_batched``: it has no address."""
    if torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore
        return True
    return torch._C._functorch.is_legacy_batchedtensor(gradient)  # pyright: ignore


def _pull_back(saved, end_bar: Tensor, ladj_bar: Tensor, shift: float, inverted: bool, adjoint):
    """Gradients of z, w, u and b: by ``adjoint``, or so that they can be differentiated again."""
    start, w, u, b, kept = saved
    again = torch.is_grad_enabled()
    if torch.compiler.is_compiling() or not (again or _batched(end_bar) or _batched(ladj_bar)):
        return adjoint(w, u, b, kept, end_bar, ladj_bar, shift, inverted)
    with torch.enable_grad():
        inputs = (start, w, u, b)
        outputs = (reference.inverse if inverted else reference.forward)(*inputs, shift)
        wanted = [x for x in inputs if x.requires_grad]
        found = iter(
            torch.autograd.grad(
                outputs, wanted, (end_bar, ladj_bar), create_graph=again, allow_unused=True
            )
        )
    return tuple(next(found) if x.requires_grad else None for x in inputs)


def _register_autograd(op, inverted: bool) -> None:
    def setup_context(ctx, inputs, output) -> None:
        *tensors, ctx.shift, ctx.saved_for_gradient = inputs
        ctx.save_for_backward(*tensors, output[2])

    def backward(ctx, end_bar: Tensor, ladj_bar: Tensor, _):
        if not ctx.saved_for_gradient:
            raise RuntimeError("planar flow: computed with save=False, so it has no gradient")
        saved = ctx.saved_tensors
        gradients = _pull_back(saved, end_bar, ladj_bar, ctx.shift, inverted, planar_pullback)
        return *gradients, None, None

    op.register_autograd(backward, setup_context=setup_context)


_register_autograd(planar, inverted=False)
_register_autograd(planar_inverse, inverted=True)


class _PlanarFunction(torch.autograd.Function):
    """The same without the dispatcher's bookkeeping, which costs more than small flows do."""

    @staticmethod
    def forward(ctx, z, w, u, b, shift, inverted):
        launcher = _LAUNCHERS[z.device.type]()
        end, ladj, kept = launcher.forward(z, w, u, b, shift, True, inverted)
        ctx.save_for_backward(z, w, u, b, kept)
        ctx.shift, ctx.inverted = shift, inverted
        return end, ladj

    @staticmethod
    def backward(ctx, end_bar, ladj_bar):  # pyright: ignore[reportIncompatibleMethodOverride]
        adjoint = _LAUNCHERS[end_bar.device.type]().backward
        gradients = _pull_back(
            ctx.saved_tensors, end_bar, ladj_bar, ctx.shift, ctx.inverted, adjoint
        )
        return *gradients, None, None


_LAUNCHERS = {"cpu": _cpu, "cuda": _cuda}
_PLAIN = {Tensor, torch.nn.Parameter}


def _traced(*tensors: Tensor) -> bool:
    """Whether a compiler, exporter, transform, dispatch mode or tensor subclass must see this."""
    return (
        torch.compiler.is_compiling()
        or not {type(x) for x in tensors} <= _PLAIN
        or torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None  # pyright: ignore
    )


def planar_map(
    z: Tensor, w: Tensor, u: Tensor, b: Tensor, shift: float, inverted: bool
) -> tuple[Tensor, Tensor]:
    """Points (S, P, D), or (P, D), through sets (P, K, D) or back: the end, and its ladj.

    As an operator of PyTorch under compile, export, tensor subclasses and dispatch modes; otherwise
    by the kernels directly.
    """
    save = torch.is_grad_enabled() and (
        z.requires_grad or w.requires_grad or u.requires_grad or b.requires_grad
    )
    if _traced(z, w, u, b):
        flat = z.dim() == 2
        op = planar_inverse if inverted else planar
        end, ladj, _ = op(z.unsqueeze(0) if flat else z, w, u, b, shift, save)
        return (end.squeeze(0), ladj.squeeze(0)) if flat else (end, ladj)
    if save:
        return _PlanarFunction.apply(z, w, u, b, shift, inverted)
    launcher = _LAUNCHERS[z.device.type]()
    end, ladj, _ = launcher.forward(z, w, u, b, shift, False, inverted)
    return end, ladj

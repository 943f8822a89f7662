"""Other implementations of the planar flow, each as two calls that can be timed.

All compute the same thing: z_K and Σ ladj for z (..., D), w, u (..., K, D) and b (..., K) in
float32 with the paper's constraint, and the gradients of all four for given gradients of z_K and
Σ ladj. Pyro, JAX and flowjax are optional: :func:`build` says which of them is missing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from flowvae.flows import planar_flow, reference

__all__ = ["RIVALS", "Case", "Rival", "build", "disagreement"]

Call = Callable[[], Any]
Flow = Callable[..., tuple[Any, Any]]


@dataclass(frozen=True)
class Case:
    """One problem: points (*points, D), parameter sets (*sets, K, D)."""

    points: tuple[int, ...]
    sets: tuple[int, ...]
    K: int
    D: int

    @property
    def name(self) -> str:
        if self.points == self.sets:
            return f"({', '.join(map(str, (*self.points, self.K, self.D)))})"
        return f"{self.points[0]} samples × {self.sets[0]} sets, K={self.K}, D={self.D}"

    @property
    def bytes_moved(self) -> dict[str, int]:
        """What must cross the memory bus at the least, every tensor once a pass, in float32."""
        points, sets = math.prod(self.points), math.prod(self.sets)
        parameters = 4 * sets * (2 * self.K * self.D + self.K)
        end = 4 * points * (self.D + 1)  # z_K and Σ ladj, or their gradients
        forward = 4 * points * self.D + parameters + end
        # read w, u, b, z_K and the incoming gradients; write the gradients of z, w, u, b
        backward = 2 * parameters + 4 * points * self.D + end + 4 * points * self.D
        return {"forward": forward, "both": forward + backward}

    @cached_property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """z, w, u, b and the gradients of z_K and Σ ladj; scale 0.1, so that nothing is chaotic."""
        random = np.random.default_rng(0)
        sets, K, D = self.sets, self.K, self.D
        shapes = [(*self.points, D), (*sets, K, D), (*sets, K, D), (*sets, K)]
        shapes += [(*self.points, D), self.points]
        return tuple(0.1 * random.standard_normal(s, dtype=np.float32) for s in shapes)


@dataclass(frozen=True)
class Rival:
    """``forward`` gives (z_K, Σ ladj), ``both`` the gradients of (z, w, u, b)."""

    forward: Call
    both: Call


def build(name: str, case: Case, device: str = "cpu") -> Rival | str:
    """The rival's calls, or why there are none."""
    try:
        return RIVALS[name](case, device)
    except ImportError as error:
        return f"not installed ({error})"


def disagreement(mine: Rival, other: Rival) -> str | None:
    """Where two rivals differ in z_K, Σ ladj or the gradients of z and b; None if nowhere.

    The gradients of w and u are left out because flowjax constrains u by another function.
    """
    for of, pick in (
        ("forward", {"z_K": 0, "Σ ladj": 1}),
        ("both", {"z's gradient": 0, "b's gradient": 3}),
    ):
        ours, theirs = getattr(mine, of)(), getattr(other, of)()
        for name, i in pick.items():
            a, b = _array(ours[i]), _array(theirs[i])
            # Relative to the largest: a coordinate may pass through zero.
            error = float(np.abs(a - b).max() / np.abs(a).max())
            if a.shape != b.shape or not error < 1e-3:
                return f"{name} differs by {error:.1e} of its largest value"
    return None


def _array(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def _in_torch(flow: Flow, case: Case, device: str) -> Rival:
    tensors = [torch.from_numpy(x).to(device) for x in case.arrays]
    inputs, gradients = tensors[:4], tensors[4:]
    leaves = [x.clone().requires_grad_() for x in inputs]
    return Rival(
        lambda: flow(*inputs), lambda: torch.autograd.grad(flow(*leaves), leaves, gradients)
    )


def _planar_flow(case: Case, device: str) -> Rival:
    return _in_torch(planar_flow, case, device)


def _reference(case: Case, device: str) -> Rival:
    return _in_torch(partial(reference.forward, shift=reference.SHIFTS["paper"]), case, device)


def _loop(case: Case, device: str) -> Rival:
    return _in_torch(_one_flow_at_a_time, case, device)


def _one_flow_at_a_time(z: Tensor, w: Tensor, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """As public code does it: for each k its parameters cut out, and all of its formulas."""
    ladj = z.new_zeros(z.shape[:-1])
    for k in range(w.shape[-2]):
        w_k, u_k, b_k = w[..., k, :], u[..., k, :], b[..., k, None]
        wu = (w_k * u_k).sum(-1, keepdim=True)
        m = softplus(wu) - 1
        u_hat = u_k + (m - wu) * w_k / w_k.square().sum(-1, keepdim=True)
        t = torch.tanh((w_k * z).sum(-1, keepdim=True) + b_k)
        z = z + u_hat * t
        psi = (1 - t.square()) * w_k
        ladj = ladj + torch.log(torch.abs(1 + (psi * u_hat).sum(-1)))
    return z, ladj


def _pyro(case: Case, device: str) -> Rival:
    from pyro.distributions.transforms.planar import ConditionedPlanar

    def flow(z: Tensor, w: Tensor, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        ladj = z.new_zeros(z.shape[:-1])
        for w_k, u_k, b_k in zip(w.unbind(-2), u.unbind(-2), b.unbind(-1), strict=True):
            transform: Any = ConditionedPlanar((b_k.unsqueeze(-1), u_k, w_k))
            before, z = z, transform(z)
            ladj = ladj + transform.log_abs_det_jacobian(before, z)
        return z, ladj

    return _in_torch(flow, case, device)


def _in_jax(flow: Flow, arrays: tuple[np.ndarray, ...]) -> Rival:
    """Compiled by XLA, which takes its number of threads from NPROC when it is first imported."""
    jax = _import_jax()
    values = [jax.device_put(x, jax.devices("cpu")[0]) for x in arrays]
    inputs, gradients = values[:4], tuple(values[4:])

    # value_and_grad for an output that is no scalar: the value, and the gradients it pulls back
    def value_and_gradients(inputs: Any, gradients: Any) -> Any:
        value, pull_back = jax.vjp(flow, *inputs)
        return pull_back(gradients), value

    forward, both = jax.jit(flow), jax.jit(value_and_gradients)
    return Rival(
        lambda: jax.block_until_ready(forward(*inputs)),
        lambda: jax.block_until_ready(both(inputs, gradients))[0],
    )


def _import_jax() -> Any:
    os.environ.setdefault("NPROC", str(torch.get_num_threads()))
    import jax

    return jax


def _jax_scan(case: Case, device: str) -> Rival:  # noqa: ARG001
    jax = _import_jax()
    jnp, nn = jax.numpy, jax.nn
    # With D last, jaxlib 0.10.2 computes the shared case wrongly on CPUs from its 65,536th value
    # on; with D before the last dimension it does not. Elsewhere D last is right, and faster.
    axis = -1 if case.points == case.sets else -2

    def layer(carry: Any, parameters: Any) -> tuple[Any, None]:
        (z, ladj), (w, u_hat, b, wu_hat) = carry, parameters
        t = jnp.tanh((w * z).sum(axis) + b)
        det = jnp.abs(1 + (1 - t * t) * wu_hat)
        return (z + u_hat * jnp.expand_dims(t, axis), ladj + jnp.log(det)), None

    def flow(z: Any, w: Any, u: Any, b: Any) -> tuple[Any, Any]:
        # The constraint stands outside the scan, which is a third faster at (100, 80, 40).
        wu = (w * u).sum(-1)
        m = nn.softplus(wu) - 1
        u_hat = u + ((m - wu) / (w * w).sum(-1))[..., None] * w
        layers = (w, u_hat, b, (w * u_hat).sum(-1))
        w, u_hat, b, wu_hat = (jnp.moveaxis(x, len(case.sets), 0) for x in layers)
        z, w, u_hat = (jnp.moveaxis(x, -1, axis) for x in (z, w, u_hat))
        start = (z, jnp.zeros(case.points, z.dtype))
        (z, ladj), _ = jax.lax.scan(layer, start, (w, u_hat, b, wu_hat))
        return jnp.moveaxis(z, axis, -1), ladj

    return _in_jax(flow, case.arrays)


def _flowjax(case: Case, device: str) -> Rival:  # noqa: ARG001
    jax = _import_jax()
    import equinox
    from flowjax.bijections import Planar, Scan

    jnp = jax.numpy
    template = Planar(jax.random.key(0), dim=case.D)

    def one_point(z: Any, w: Any, u: Any, b: Any) -> tuple[Any, Any]:
        parameters = jnp.concatenate([w, u, b[:, None]], -1)
        flows = equinox.tree_at(lambda planar: planar.params, template, parameters)
        return Scan(flows).transform_and_log_det(z)

    flow = jax.vmap(one_point)
    if case.points != case.sets:
        # Samples within sets: the other way round jaxlib 0.10.2 computes wrong gradients on CPUs.
        flow = jax.vmap(jax.vmap(one_point, (0, None, None, None)), (1, 0, 0, 0), (1, 1))
    z, w, u, b, *gradients = case.arrays
    return _in_jax(flow, (z, w, _u_for_flowjax(w, u), b, *gradients))


def _u_for_flowjax(w: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The u that flowjax constrains to the same û as the paper's rule.

    Its m is log(1 + softplus(wᵀu)) - 1 where the paper has softplus(wᵀu) - 1, so another function
    at the same cost: the library runs unchanged, and u is moved along w until both agree.
    """
    w64, u64 = w.astype(np.float64), u.astype(np.float64)
    wu = (w64 * u64).sum(-1, keepdims=True)
    wanted = np.log(np.expm1(np.exp(wu)))  # log(1 + softplus(wanted)) = softplus(wu)
    return (u64 + (wanted - wu) * w64 / (w64**2).sum(-1, keepdims=True)).astype(np.float32)


RIVALS: dict[str, Callable[[Case, str], Rival]] = {
    "planar_flow": _planar_flow,
    "reference": _reference,
    "loop": _loop,
    "Pyro": _pyro,
    "JAX scan": _jax_scan,
    "flowjax": _flowjax,
}

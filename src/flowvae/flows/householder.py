"""Householder flows (Tomczak & Welling 2016, arXiv 1611.09630): rotations, which keep volume.

    H(v) = I - 2 v vᵀ / ‖v‖²          z_K = H(v_K) ⋯ H(v_1) z

A product of reflections is one matrix in compact form (Joffrain et al. 2006, "Accumulating
Householder transformations, revisited"): with N the unit vectors as columns,

    H(v_1) ⋯ H(v_K) = I - N T Nᵀ,      T⁻¹ = ½ I + strictly upper triangle of NᵀN

so K reflections cost three small products and no loop over k.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Reflections", "householder_flow", "householder_flow_inverse", "matvec"]


class Reflections:
    """The product H(v_1) ⋯ H(v_K), ready to be applied; a vector v = 0 stands for the identity.

    Args:
        v: (..., K, D).
    """

    def __init__(self, v: Float[Tensor, "*params K D"]) -> None:
        # Squares of what is small or large leave float32; a length does not change the reflection.
        largest = v.detach().abs().amax(-1, keepdim=True)
        v = v / torch.where(largest > 0, largest, 1.0)
        tiny = torch.finfo(v.dtype).tiny
        self.units = v * v.square().sum(-1, keepdim=True).clamp(min=tiny).rsqrt()
        K = v.shape[-2]
        eye = torch.eye(K, dtype=v.dtype, device=v.device)
        inverse = 0.5 * eye + (self.units @ self.units.mT).triu(1)
        self.core = torch.linalg.solve_triangular(inverse, eye.expand_as(inverse), upper=True)

    def unbind(self) -> list[Reflections]:
        """One product for every index of the last batch dimension."""
        found = []
        for units, core in zip(self.units.unbind(-3), self.core.unbind(-3), strict=True):
            each = object.__new__(Reflections)
            each.units, each.core = units, core
            found.append(each)
        return found

    def apply(self, z: Tensor) -> Tensor:
        """H(v_1) ⋯ H(v_K) z."""
        return z - matvec(self.units.mT, matvec(self.core, matvec(self.units, z)))

    def apply_transposed(self, z: Tensor) -> Tensor:
        """H(v_K) ⋯ H(v_1) z, the inverse of :meth:`apply`."""
        return z - matvec(self.units.mT, matvec(self.core.mT, matvec(self.units, z)))


def householder_flow(
    z: Float[Tensor, "*#batch D"], v: Float[Tensor, "*#params K D"]
) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
    """Reflect z at K hyperplanes, one after the other.

    Args:
        z: points, (..., D).
        v: normals of the hyperplanes, of any length, (..., K, D); v = 0 is the identity.

    Returns:
        z_K, (..., D), and log|det ∂z_K/∂z| = 0, (...).

    Source: "Improving Variational Auto-Encoders using Householder Flow", arXiv 1611.09630.

    Examples:
        >>> import torch
        >>> householder_flow(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 0.0]]))
        (tensor([-3.,  4.]), tensor(0.))
    """
    z_K = Reflections(v).apply_transposed(z)
    return z_K, z_K.new_zeros(z_K.shape[:-1])


def householder_flow_inverse(
    z_K: Float[Tensor, "*#batch D"], v: Float[Tensor, "*#params K D"]
) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
    """The same reflections in reverse order: the inverse of :func:`householder_flow`.

    Args:
        z_K: points, (..., D).
        v: (..., K, D).

    Returns:
        z, (..., D), and the log-determinant 0, (...).
    """
    z = Reflections(v).apply(z_K)
    return z, z.new_zeros(z.shape[:-1])


def matvec(a: Tensor, x: Tensor) -> Tensor:
    """A x with batch dimensions that broadcast; matrices (B, m, n) serve vectors (S, B, n)
    without being copied S times.
    """
    extra = x.dim() - 1 - (a.dim() - 2)
    if extra <= 0 or x.shape[extra:-1] != a.shape[:-2]:
        return (a @ x.unsqueeze(-1)).squeeze(-1)
    samples = x.shape[:extra]
    columns = x.flatten(0, extra - 1).movedim(0, -1)
    return (a @ columns).movedim(-1, 0).unflatten(0, samples)

"""Householder flows (Tomczak & Welling 2016, arXiv 1611.09630): rotations, which keep volume.

    H(v) = I - 2 v vᵀ / ‖v‖²          z_K = H(v_K) ⋯ H(v_1) z

A product of reflections is one matrix in compact form (Joffrain et al. 2006, "Accumulating
Householder transformations, revisited"): with N the unit vectors as columns,

    H(v_1) ⋯ H(v_K) = I - N T Nᵀ,      T⁻¹ = ½ I + strictly upper triangle of NᵀN

so K reflections cost three small products and no loop over k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.flows.bijection import Bijection
from flowvae.flows.portable import is_portable

__all__ = ["HouseholderTransform", "Reflections", "matvec"]


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
        if is_portable():  # ONNX has no triangular solution
            self.core = None
            return
        K = v.shape[-2]
        eye = torch.eye(K, dtype=v.dtype, device=v.device)
        inverse = 0.5 * eye + (self.units @ self.units.mT).triu(1)
        self.core = torch.linalg.solve_triangular(inverse, eye.expand_as(inverse), upper=True)

    def unbind(self) -> list[Reflections]:
        """One product for every index of the last batch dimension."""
        found, units_all = [], self.units.unbind(-3)
        cores = [None] * len(units_all) if self.core is None else self.core.unbind(-3)
        for units, core in zip(units_all, cores, strict=True):
            each = object.__new__(Reflections)
            each.units, each.core = units, core
            found.append(each)
        return found

    def apply(self, z: Tensor) -> Tensor:
        """H(v_1) ⋯ H(v_K) z."""
        if self.core is None:
            return _reflected(z, self.units.unbind(-2)[::-1])
        return z - matvec(self.units.mT, matvec(self.core, matvec(self.units, z)))

    def apply_transposed(self, z: Tensor) -> Tensor:
        """H(v_K) ⋯ H(v_1) z, the inverse of :meth:`apply`."""
        if self.core is None:
            return _reflected(z, self.units.unbind(-2))
        return z - matvec(self.units.mT, matvec(self.core.mT, matvec(self.units, z)))


def _reflected(z: Tensor, units: Sequence[Tensor]) -> Tensor:
    """One reflection after the other."""
    for unit in units:
        z = z - 2 * (unit * z).sum(-1, keepdim=True) * unit
    return z


class HouseholderTransform(Bijection):
    """K reflections at hyperplanes, one after the other: a rotation, so ladj = 0.

    Args:
        v: normals of the hyperplanes, of any length, (..., K, D); v = 0 is the identity.

    Source: "Improving Variational Auto-Encoders using Householder Flow", arXiv 1611.09630.

    Examples:
        >>> import torch
        >>> flow = HouseholderTransform(torch.tensor([[1.0, 0.0]]))
        >>> flow.forward_and_ladj(torch.tensor([3.0, 4.0]))
        (tensor([-3.,  4.]), tensor(0.))
    """

    layered: ClassVar = {"v": 1}

    def __init__(self, v: Float[Tensor, "*#params K D"]) -> None:
        super().__init__()
        self.v = v

    def forward_and_ladj(
        self, z: Float[Tensor, "*#batch D"]
    ) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
        z_K = Reflections(self.v).apply_transposed(z)
        return z_K, z_K.new_zeros(z_K.shape[:-1])

    def inverse_and_ladj(
        self, z_K: Float[Tensor, "*#batch D"]
    ) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
        z = Reflections(self.v).apply(z_K)
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

"""Sylvester flows (van den Berg et al. 2018, arXiv 1803.05649).

Planar flows with M hidden units in place of one. For k = 1..K, with Q_k (D, M) of orthonormal
columns and R_k, R̃_k (M, M) upper triangular:

    z_k    = z_{k-1} + Q_k R_k tanh(R̃_k Q_kᵀ z_{k-1} + b_k)
    ladj_k = Σ_i log(1 + tanh'(a_i) R_ii R̃_ii),          a = R̃_k Q_kᵀ z_{k-1} + b_k

The diagonals are tanh of what is given, so R_ii R̃_ii > -1 and every layer is invertible. The
three families differ in Q: ``orthogonal`` (M columns, orthonormal by Gram-Schmidt), ``householder``
(a product of reflections, M = D), ``triangular`` (the identity, or the reversal of all
coordinates at every second layer, M = D).

Inverse. t' = R̃ Qᵀz' + b satisfies t' = t + R̃R tanh(t) with R̃R upper triangular: from the last
coordinate upwards each t_i solves t_i + c_i tanh t_i = τ_i, the scalar equation of the planar
flow, and z = z' - Q R tanh(t). The paper gives none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from flowvae.flows.bijection import Bijection
from flowvae.flows.householder import Reflections, matvec
from flowvae.flows.reference import _log_abs_det, _Root

__all__ = [
    "Basis",
    "FlipBasis",
    "GramSchmidtBasis",
    "HouseholderBasis",
    "SylvesterTransform",
]


class Basis:
    """Q_k for all K layers."""

    def project(self, k: int, z: Tensor) -> Tensor:
        """Q_kᵀ z, (..., M)."""
        raise NotImplementedError

    def expand(self, k: int, y: Tensor) -> Tensor:
        """Q_k y, (..., D)."""
        raise NotImplementedError


class GramSchmidtBasis(Basis):
    """Q_k from the columns of any matrices, made orthonormal by Gram-Schmidt, twice over.

    The paper iterates towards the orthonormal matrix that is nearest; this spans the same space in
    M steps, and is orthonormal to rounding even for columns that are nearly parallel.

    Args:
        columns: (..., K, D, M), M ≤ D.
    """

    def __init__(self, columns: Float[Tensor, "*params K D M"]) -> None:
        D, M = columns.shape[-2:]
        if M > D:
            raise ValueError(f"columns: expected M of at most D = {D}, got {M}")
        tiny = torch.finfo(columns.dtype).tiny
        scale = columns.square().sum(-2, keepdim=True).clamp(min=tiny).rsqrt()
        # A trace of the identity: parallel columns, too, have an orthonormal basis.
        eye = torch.eye(D, M, dtype=columns.dtype, device=columns.device)
        columns = columns * scale + 1e-5 * eye
        found: list[Tensor] = []
        for column in columns.unbind(-1):
            v = column
            if found:
                q = torch.stack(found, -1)
                v = _unit(v - matvec(q, matvec(q.mT, v)))
                v = v - matvec(q, matvec(q.mT, v))
            found.append(_unit(v))
        # Unbound once: the gradient of K slices would be K tensors of the whole's size.
        self.q = torch.stack(found, -1).unbind(-3)

    def project(self, k: int, z: Tensor) -> Tensor:
        return matvec(self.q[k].mT, z)

    def expand(self, k: int, y: Tensor) -> Tensor:
        return matvec(self.q[k], y)


class HouseholderBasis(Basis):
    """Q_k = H(v_{k,1}) ⋯ H(v_{k,H}), M = D.

    Args:
        v: (..., K, H, D).
    """

    def __init__(self, v: Float[Tensor, "*params K H D"]) -> None:
        self.layers = Reflections(v).unbind()

    def project(self, k: int, z: Tensor) -> Tensor:
        return self.layers[k].apply_transposed(z)

    def expand(self, k: int, y: Tensor) -> Tensor:
        return self.layers[k].apply(y)


class FlipBasis(Basis):
    """Q_k is the identity for even k and reverses the coordinates for odd k; M = D."""

    def __init__(self, vectors: None = None) -> None:
        del vectors  # it has none

    def project(self, k: int, z: Tensor) -> Tensor:
        return z.flip(-1) if k % 2 else z

    def expand(self, k: int, y: Tensor) -> Tensor:
        return self.project(k, y)


class SylvesterTransform(Bijection):
    """K Sylvester flows. The inverse takes M scalar equations per layer, one after the other; its
    gradients are those of the implicit function theorem.

    Args:
        off_diagonal: above its diagonal that of R, below it that of R̃ transposed, (..., K, M, M).
        diag_1: unconstrained; tanh of it is the diagonal of R, (..., K, M).
        diag_2: likewise of R̃, (..., K, M).
        b: offsets, (..., K, M).
        vectors: what the basis Q is made of; none for :class:`FlipBasis`.
        basis: how.

    Source: "Sylvester Normalizing Flows for Variational Inference", arXiv 1803.05649.

    Examples:
        >>> import torch
        >>> z, full, d_1, d_2, b = (torch.randn(*s).double() for s in
        ...                         ((5, 4), (2, 4, 4), (2, 4), (2, 4), (2, 4)))
        >>> flow = SylvesterTransform(full, d_1, d_2, b)
        >>> torch.allclose(flow.inv(flow(z)), z)
        True
    """

    layered: ClassVar = {"off_diagonal": 2, "diag_1": 1, "diag_2": 1, "b": 1, "vectors": 2}

    def __init__(
        self,
        off_diagonal: Float[Tensor, "*#params K M M"],
        diag_1: Float[Tensor, "*#params K M"],
        diag_2: Float[Tensor, "*#params K M"],
        b: Float[Tensor, "*#params K M"],
        vectors: Float[Tensor, "*#params K _ _"] | None = None,
        basis: Callable[..., Basis] = FlipBasis,
    ) -> None:
        super().__init__()
        self.off_diagonal, self.diag_1, self.diag_2, self.b = off_diagonal, diag_1, diag_2, b
        self.vectors, self.basis = vectors, basis

    def forward_and_ladj(
        self, z: Float[Tensor, "*#batch D"]
    ) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
        r_1, r_2, c, log_s = self._constrained()
        basis, a_all = self.basis(self.vectors), []
        for k, (r_1k, r_2k, b_k) in enumerate(_layers(r_1, r_2, self.b)):
            a = matvec(r_2k, basis.project(k, z)) + b_k
            z = z + basis.expand(k, matvec(r_1k, torch.tanh(a)))
            a_all.append(a)
        return z, _ladj(z, a_all, c, log_s)

    def inverse_and_ladj(
        self, z_K: Float[Tensor, "*#batch D"]
    ) -> tuple[Float[Tensor, "*out D"], Float[Tensor, "*out"]]:
        r_1, r_2, c, log_s = self._constrained()
        products = (r_2 @ r_1).unbind(-3)
        z, basis, a_all = z_K, self.basis(self.vectors), []
        for k, (r_1k, r_2k, b_k) in reversed(list(enumerate(_layers(r_1, r_2, self.b)))):
            tau = matvec(r_2k, basis.project(k, z)) + b_k
            a = _solve(tau, products[k], c[..., k, :], log_s[..., k, :])
            z = z - basis.expand(k, matvec(r_1k, torch.tanh(a)))
            a_all.append(a)
        return z, -_ladj(z, a_all[::-1], c, log_s)

    def _constrained(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """R, R̃, the products c_i = R_ii R̃_ii of their diagonals, and log(1 + c_i)."""
        d_1, d_2 = self.diag_1, self.diag_2
        t_1, t_2 = d_1.tanh(), d_2.tanh()
        r_1 = self.off_diagonal.triu(1) + torch.diag_embed(t_1)
        r_2 = self.off_diagonal.tril(-1).mT + torch.diag_embed(t_2)
        # 1 + tanh x tanh y = cosh(x + y) / (cosh x cosh y): finite where c rounds to -1.
        return r_1, r_2, t_1 * t_2, _log_cosh(d_1 + d_2) - _log_cosh(d_1) - _log_cosh(d_2)


def _layers(r_1: Tensor, r_2: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    return zip(r_1.unbind(-3), r_2.unbind(-3), b.unbind(-2), strict=True)


def _solve(tau: Tensor, product: Tensor, c: Tensor, log_s: Tensor) -> Tensor:
    """The t with t + product tanh(t) = τ, product upper triangular with diagonal c."""
    M = tau.shape[-1]
    found: list[Tensor] = []
    for i in range(M - 1, -1, -1):
        right = tau[..., i]
        if found:
            later = torch.stack(found[::-1], -1).tanh()
            right = right - (product[..., i, i + 1 :] * later).sum(-1)
        found.append(
            _Root.apply(right, *torch.broadcast_tensors(c[..., i], log_s[..., i], right)[:2])
        )
    return torch.stack(found[::-1], -1)


def _log_cosh(x: Tensor) -> Tensor:
    return x.abs() + softplus(-2 * x.abs()) - math.log(2)


def _ladj(z: Tensor, a_all: list[Tensor], c: Tensor, log_s: Tensor) -> Tensor:
    if not a_all:
        return z.new_zeros(z.shape[:-1])
    return _log_abs_det(torch.stack(a_all, -2), c, log_s).sum((-2, -1))


def _unit(v: Tensor) -> Tensor:
    return v * v.square().sum(-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny).rsqrt()

"""Planar flows fitted to the four test energies of Rezende and Mohamed.

    w₁ = sin(2πz₁/4),  w₂ = 3 exp(-½((z₁-1)/0.6)²),  w₃ = 3 σ((z₁-1)/0.3)
    U1 = ½((‖z‖-2)/0.4)² - ln(exp(-½((z₁-2)/0.6)²) + exp(-½((z₁+2)/0.6)²))
    U2 = ½((z₂-w₁)/0.4)²
    U3 = -ln(exp(-½((z₂-w₁)/0.35)²) + exp(-½((z₂-w₁+w₂)/0.35)²))
    U4 = -ln(exp(-½((z₂-w₁)/0.4)²) + exp(-½((z₂-w₁+w₃)/0.35)²))

U2 to U4 do not decay along z₁. A soft wall ½((|z₁|-4)₊/0.1)² makes densities of them.

Source: "Variational Inference with Normalizing Flows", arXiv 1505.05770, table 1.
"""

from __future__ import annotations

import argparse
import math
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from flowvae.device import machine
from flowvae.distributions import DiagonalGaussian, FlowDistribution
from flowvae.evaluation.grid import uniform_grid
from flowvae.files import write_bytes, write_json
from flowvae.flows import PlanarFlow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ENERGIES", "EnergyFlow", "energies_figure", "energy", "fit_energy", "kl_by_quadrature"]

ENERGIES = ("U1", "U2", "U3", "U4")
_WALL, _STEEPNESS = 4.0, 0.1
_BATCH, _RATE, _TEMPERED = 500, 0.01, 0.5  # data a step, of Adam, share of the updates
_REACH = 6.5  # deviations of the noise that quadrature goes to
_WEIGHTS = "flow.safetensors"


def energy(name: str, z: Tensor) -> Tensor:
    """U(z), (..., 2) -> (...), so that p(z) ∝ exp(-U(z)).

    Raises:
        ValueError: the name is none of :data:`ENERGIES`.

    Examples:
        >>> import torch
        >>> energy("U2", torch.tensor([[1.0, 1.0], [0.0, 0.4]]))
        tensor([0.0000, 0.5000])
    """
    if name not in ENERGIES:
        raise ValueError(f"energy: expected one of {', '.join(ENERGIES)}, got {name!r}")
    z_1, z_2 = z.unbind(-1)

    def bell(value: Tensor, width: float) -> Tensor:
        return -0.5 * (value / width).square()

    if name == "U1":
        ring = bell(torch.linalg.vector_norm(z, dim=-1) - 2, 0.4)
        return -ring - torch.logaddexp(bell(z_1 - 2, 0.6), bell(z_1 + 2, 0.6))
    wall = -bell((z_1.abs() - _WALL).clamp(min=0), _STEEPNESS)
    off = z_2 - (2 * math.pi * z_1 / 4).sin()
    if name == "U2":
        return wall - bell(off, 0.4)
    if name == "U3":
        other = off + 3 * bell(z_1 - 1, 0.6).exp()
        return wall - torch.logaddexp(bell(off, 0.35), bell(other, 0.35))
    other = off + 3 * ((z_1 - 1) / 0.3).sigmoid()
    return wall - torch.logaddexp(bell(off, 0.4), bell(other, 0.35))


class EnergyFlow(nn.Module):
    """A diagonal Gaussian through the layers of a :class:`PlanarFlow`.

    Args:
        num_flows: K.
    """

    def __init__(self, num_flows: int) -> None:
        super().__init__()
        self.loc, self.log_var = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        self.layers = PlanarFlow(2, num_flows)

    def forward(self) -> FlowDistribution:
        (flow,) = self.layers().transforms
        return FlowDistribution(DiagonalGaussian(self.loc, self.log_var), flow)


def fit_energy(name: str, num_flows: int, *, updates: int = 10_000, seed: int = 0) -> EnergyFlow:
    """Minimise KL(q ‖ p) by Adam at a rate that falls to zero.

    During the first half U is multiplied by a weight that grows from 0.01 to 1, or q would keep to
    the first mode that it finds.

    Args:
        name: of the energy.
        num_flows: K.
        updates: of 500 draws each.
        seed: of the start and the draws.

    Examples:
        >>> flow = fit_energy("U2", num_flows=2, updates=50)
        >>> kl_by_quadrature("U2", flow, points=200) > 0
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        flow = EnergyFlow(num_flows)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(flow.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for step in range(updates):
        z, log_q = flow().rsample_and_log_prob((_BATCH,), generator)
        weight = min(1.0, 0.01 + step / (_TEMPERED * updates))
        loss = (log_q + weight * energy(name, z)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return flow


@torch.no_grad()
def kl_by_quadrature(name: str, flow: EnergyFlow, points: int = 1500) -> float:
    """KL(q ‖ p) in nats: over the noise for E_q[log q + U], over z for the log of p's constant.

    Args:
        name: of the energy, p ∝ exp(-U).
        flow: q.
        points: of both grids, along an axis.
    """
    reach = torch.full((2,), _REACH, dtype=torch.double)
    eps, log_cell = uniform_grid(-reach, reach, points)
    sample = deepcopy(flow).double()().at_noise(eps)
    mass = (-0.5 * eps.square().sum(-1) - math.log(2 * math.pi) + log_cell).exp()
    value = sample.log_base - sample.ladj + energy(name, sample.z)
    z, log_cell = uniform_grid(-reach, reach, points)
    log_constant = (-energy(name, z)).logsumexp(0).item() + log_cell
    return (mass * value).sum().item() + log_constant


@torch.no_grad()
def energies_figure(folders: dict[tuple[str, int], Path], points: int = 300) -> Figure:
    """Figure 3 again: each energy's density, and beside it q for every K.

    Args:
        folders: (energy, K) -> the folder of its run.
        points: of the grid, along an axis.
    """
    from flowvae.figures.style import DENSITY, new_figure

    counts = sorted({K for _, K in folders})
    shown = [name for name in ENERGIES if any(name == each for each, _ in folders)]
    figure = new_figure(2.2 * (len(counts) + 1), 2.3 * len(shown))
    axes = figure.subplots(len(shown), len(counts) + 1, squeeze=False)
    side = torch.full((2,), 4.0, dtype=torch.double)
    z, _ = uniform_grid(-side, side, points)
    for row, name in zip(axes, shown, strict=True):
        densities = {"exp(−U)": (-energy(name, z)).exp()}
        for K in counts:
            if (name, K) in folders:
                densities[f"K = {K}"] = read_flow(folders[name, K])().log_prob(z).exp()
        for panel, title in zip(row, ["exp(−U)", *(f"K = {K}" for K in counts)], strict=True):
            panel.set_axis_off()
            if title in densities:
                density = densities[title].view(points, points).T.numpy()
                panel.imshow(density, origin="lower", cmap=DENSITY)
                panel.set_title(f"{name}, {title}")
    return figure


def read_flow(folder: Path) -> EnergyFlow:
    """The flow of a run, in double precision."""
    state = load_file(folder / _WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        flow = EnergyFlow(len(state["layers.b"])).double()
    flow.load_state_dict(state)
    return flow


def main() -> None:
    """One run: fit, integrate, write ``flow.safetensors`` and ``energy.json``."""
    parser = argparse.ArgumentParser(description=(main.__doc__ or "").strip())
    parser.add_argument("--energy", choices=ENERGIES, required=True)
    parser.add_argument("--num-flows", type=int, required=True)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    flow = fit_energy(options.energy, options.num_flows, updates=options.updates, seed=options.seed)
    kl = kl_by_quadrature(options.energy, flow)
    write_bytes(out / _WEIGHTS, save(flow.state_dict()))
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    about = {"date": f"{date.today()}", "torch": torch.__version__, "machine": machine()}
    write_json(out / "energy.json", {**settings, "kl": kl, **about})


if __name__ == "__main__":
    main()

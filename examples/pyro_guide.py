"""A planar flow as a Pyro guide: the posterior of a point on a ring.

z ~ N(0, I) on the plane, and its distance from the origin is measured: y ~ N(‖z‖, 0.2²), y = 2.
The true posterior is a ring. A mean-field Gaussian guide sees one side of it; planar flows wrap
around. log p(y), which no ELBO exceeds, is computed on a grid.

    python -m examples.pyro_guide            # about a minute; needs pip install pyro-ppl
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam  # pyright: ignore

from flowvae.flows import PlanarFlow

MEASURED, NOISE = torch.tensor(2.0), 0.2


def model() -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(z.norm(dim=-1), NOISE), obs=MEASURED)


class PlanarGuide:
    """q(z): N(0, I) through K planar flows. Pyro fits the module's parameters."""

    def __init__(self, num_flows: int) -> None:
        self.flow = PlanarFlow(dim=2, num_flows=num_flows)

    def __call__(self) -> None:
        flow = pyro.module("flow", self.flow)
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        pyro.sample("z", dist.TransformedDistribution(base, flow().transforms))


def fit(guide: Any, steps: int, seed: int) -> float:
    """The ELBO of the fitted guide, in nats."""
    pyro.set_rng_seed(seed)
    elbo = Trace_ELBO(num_particles=64, vectorize_particles=True, max_plate_nesting=0)
    inference = SVI(model, guide, Adam({"lr": 5e-3}), elbo)
    for _ in range(steps):
        inference.step()
    with torch.no_grad():
        final = Trace_ELBO(20_000, max_plate_nesting=0, vectorize_particles=True)
        return -final.loss(model, guide)


def log_evidence() -> float:
    """log p(y) by the midpoint rule."""
    axis = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * 16 - 8
    z = torch.cartesian_prod(axis, axis)
    log_prior = -math.log(2 * math.pi) - 0.5 * z.square().sum(-1)
    log_joint = log_prior + torch.distributions.Normal(z.norm(dim=-1), NOISE).log_prob(MEASURED)
    return (log_joint.logsumexp(0) + 2 * (axis[1] - axis[0]).log()).item()


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--num-flows", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    found = {"log p(y), on a grid": log_evidence()}
    guides: dict[str, Callable[[], Any]] = {"ELBO, mean-field Gaussian": lambda: AutoNormal(model)}
    guides[f"ELBO, {options.num_flows} planar flows"] = lambda: PlanarGuide(options.num_flows)
    for name, make in guides.items():
        pyro.clear_param_store()
        pyro.set_rng_seed(options.seed)
        found[name] = fit(make(), options.steps, options.seed)
    for name, value in found.items():
        print(f"{name:<28}{value:>8.3f} nats")
    return found


if __name__ == "__main__":
    main()

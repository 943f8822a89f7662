"""Which data and which terms the gradient of a run comes from.

    python -m benchmarks.gradients RUN [--batches N] [--norm 50]

For batches of training data: the norm of the ELBO's gradient, and how well the mean of clipped
gradients points along the mean gradient, for the encoder and for the rest. For the batch with the
largest norm: the datum it comes from, the norms of the ELBO's four terms there, and, of a planar
posterior, wᵀû of each flow. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from torch import Tensor

import flowvae
from flowvae.distributions import FlowDistribution
from flowvae.flows import PlanarTransform, reference


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("run")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--norm", type=float, default=50.0, help="what gradients are clipped to")
    options = parser.parse_args(arguments)
    run = flowvae.open_run(options.run, "cpu")
    found = diagnose(run, options.batches, options.norm)
    print(json.dumps(found, indent=2))
    return found


def diagnose(run: flowvae.Run, batches: int, clip: float) -> dict[str, Any]:
    model, train, B = run.model, run.dataset.train, run.config.training.batch_size
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(len(train), generator=generator)[: B * batches].split(B)
    names = [name for name, _ in model.named_parameters()]
    parts = {
        "encoder": [i for i, name in enumerate(names) if name.startswith("encoder")],
        "rest": [i for i, name in enumerate(names) if not name.startswith("encoder")],
    }
    norms, states = [], []
    mean = [torch.zeros_like(p) for p in model.parameters()]
    clipped = [torch.zeros_like(p) for p in model.parameters()]
    for index in indices:
        states.append(generator.get_state())
        terms = model.elbo_terms(train.values(index), 1, generator)
        gradient = _gradient(model, -terms.log_weight.mean())
        norms.append(_norm(gradient))
        factor = min(1.0, clip / norms[-1])
        torch._foreach_add_(mean, gradient, alpha=1 / len(indices))  # pyright: ignore
        torch._foreach_add_(clipped, gradient, alpha=factor / len(indices))  # pyright: ignore
    cosines = {
        part: _cosine([mean[i] for i in chosen], [clipped[i] for i in chosen])
        for part, chosen in parts.items()
    }
    ordered = torch.tensor(norms).sort().values
    quantiles = {f"{q:g}": ordered.quantile(q).item() for q in (0, 0.5, 0.9, 0.99, 1)}
    worst = max(range(len(norms)), key=norms.__getitem__)
    generator.set_state(states[worst])
    return {
        "gradient_norm": quantiles,
        "cosine_of_clipped_and_mean_gradient": cosines,
        "worst_batch": _worst(model, train.values(indices[worst]), generator),
    }


def _worst(model: flowvae.VAE, x: Tensor, generator: torch.Generator) -> dict[str, Any]:
    q = model.posterior(x)
    terms = model.terms_at(x, q.rsample_terms((1,), generator))
    each = [_norm(_gradient(model, w / len(x))) for w in terms.log_weight[0]]
    datum = max(range(len(x)), key=each.__getitem__)
    found: dict[str, Any] = {
        "norm_of_the_largest_datum": each[datum],
        "norm_of_the_others": sum(e**2 for i, e in enumerate(each) if i != datum) ** 0.5,
        "its_terms": {
            name: _norm(_gradient(model, getattr(terms, name)[0, datum] / len(x)))
            for name in terms._fields
        },
    }
    if isinstance(q, FlowDistribution) and isinstance(q.bijection, PlanarTransform):
        f = q.bijection
        _, c, _ = reference.constrain(f.w, f.u, reference.SHIFTS[f.constraint])
        found["its_w_dot_u_hat"] = [round(v, 3) for v in c[datum].tolist()]
    return found


def _gradient(model: flowvae.VAE, value: Tensor) -> list[Tensor]:
    parameters = list(model.parameters())
    if not value.requires_grad:  # such as the ladj of a Gaussian
        return [torch.zeros_like(p) for p in parameters]
    return list(
        torch.autograd.grad(
            value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    )


def _norm(gradient: list[Tensor]) -> float:
    return sum(g.square().sum() for g in gradient).sqrt().item()  # pyright: ignore


def _cosine(one: list[Tensor], other: list[Tensor]) -> float:
    a, b = (torch.cat([t.flatten() for t in each]) for each in (one, other))
    return torch.nn.functional.cosine_similarity(a, b, 0).item()


if __name__ == "__main__":
    main()

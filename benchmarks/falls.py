"""What changed in a model between two updates of its training: to see why an ELBO fell.

    python -m benchmarks.falls [--preset planar] [--seed 0] [--set NAME=VALUE …]
        --epochs 22 --before 40 --after 75

Trains for so many epochs of the preset's plan, as ``flowvae train`` does, and then update by
update. Of the first 2,000 test images: the ELBO of each class before and after, the ELBO with only
one part of the model moved and with all but one, and the share of the encoder's hidden units that
are active. Of the updates up to then, in tens: the mean ELBO of the batches, the gradient's norm,
and how far the weights moved, in learning rates. Prints JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
from typing import Any

import torch
import yaml
from torch import Tensor, nn

import flowvae
from flowvae.data import load_dataset
from flowvae.training import Trainer

_IMAGES, _DRAWS = 2000, 8
_PARTS = ("encoder", "posterior_head", "prior", "decoder")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="planar")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--before", type=int, required=True)
    parser.add_argument("--after", type=int, required=True)
    options = parser.parse_args(arguments)
    given = dict(each.split("=", 1) for each in options.set)
    values = {name: yaml.safe_load(value) for name, value in given.items()}
    config = flowvae.preset(options.preset).replace(seed=options.seed, **values)
    data = load_dataset(config.data.source)
    model = flowvae.build_vae(config, data.data_shape)
    trainer = Trainer(model, data, config.training, config.objective, config.seed)
    for _ in range(options.epochs):
        for _ in trainer.steps():
            pass
    found = compare(trainer, data, options.before, options.after)
    print(json.dumps(found, indent=2))
    return found


def compare(trainer: Trainer, data: Any, before: int, after: int) -> dict[str, Any]:
    """Go on for ``after`` updates, and say what changed from update ``before`` on."""
    model, states, log = trainer.model, {}, []
    weights = [p.detach().clone() for p in trainer.parameters]
    for count, terms in enumerate(trainer.steps(), 1):
        rate = float(trainer.optimizer.param_groups[0]["lr"])
        moved = [p.detach() - old for p, old in zip(trainer.parameters, weights, strict=True)]
        weights = [p.detach().clone() for p in trainer.parameters]
        norm = torch.stack([p.grad.norm() for p in trainer.parameters if p.grad is not None]).norm()
        log.append([terms.log_weight.mean().item(), norm.item(), _root_mean(moved) / rate])
        if count in (before, after):
            states[count] = copy.deepcopy(model.state_dict())
        if count == after:
            break
    x, labels = data.test.values(slice(0, _IMAGES)), data.test.labels[:_IMAGES]
    first, last = states[before], states[after]
    elbo = {"before": _elbo(model, first, x), "after": _elbo(model, last, x)}
    return {
        "elbo": {when: value.mean().item() for when, value in elbo.items()},
        "by_class": {
            int(label): [value[labels == label].mean().item() for value in elbo.values()]
            for label in labels.unique()
        },
        "only_moved": {
            part: _elbo(model, _mixed(first, last, part), x).mean().item() for part in _PARTS
        },
        "all_but_moved": {
            part: _elbo(model, _mixed(last, first, part), x).mean().item() for part in _PARTS
        },
        "active_units": [_active(model, state, x) for state in (first, last)],
        "tens_of_updates": [
            dict(zip(("elbo", "norm", "step"), _means(log[i : i + 10]), strict=True))
            for i in range(0, len(log), 10)
        ],
    }


def _root_mean(moved: list[Tensor]) -> float:
    total = sum(each.square().sum().item() for each in moved)
    return (total / sum(each.numel() for each in moved)) ** 0.5


def _means(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def _mixed(state: dict[str, Tensor], other: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """A state with one part of the model from another."""
    return {name: (other if name.startswith(f"{part}.") else state)[name].clone() for name in state}


@torch.no_grad()
def _elbo(model: flowvae.VAE, state: dict[str, Tensor], x: Tensor) -> Tensor:
    model = copy.deepcopy(model)
    model.load_state_dict(state)
    return model.eval().elbo(x, _DRAWS, torch.Generator().manual_seed(0))


@torch.no_grad()
def _active(model: flowvae.VAE, state: dict[str, Tensor], x: Tensor) -> float:
    """The share of positive inputs of the encoder's first layer."""
    model = copy.deepcopy(model)
    model.load_state_dict(state)
    first = next(module for module in model.encoder.modules() if isinstance(module, nn.Linear))
    return (first(model.flatten(x)) > 0).float().mean().item()


if __name__ == "__main__":
    main()

"""The models that the page computes itself, as lists of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowvae.data.columns import Column
from flowvae.distributions import DiagonalGaussian, MixtureDistribution
from flowvae.explorer.arrays import Arrays
from flowvae.likelihoods.bernoulli import Bernoulli
from flowvae.likelihoods.real import Gaussian
from flowvae.networks.inputs import RowDecoder, RowEncoder
from flowvae.networks.mlp import ACTIVATIONS, MLP
from flowvae.posteriors.gaussian import GaussianPosterior
from flowvae.posteriors.planar import PlanarPosterior
from flowvae.priors import GaussianMixture, NormalPrior
from flowvae.vae import VAE

__all__ = ["can_be_chosen", "live_model", "why_not_live"]

_MOST_COLUMNS, _MOST_CATEGORIES = 8, 100  # of a condition that a person sets in the page


def why_not_live(model: VAE) -> str | None:
    """What of a model the page cannot compute; none if it can all of it."""
    head, likelihood = model.posterior_head, model.likelihood
    prior = model.prior_given(_no_condition(model))
    mixture = isinstance(prior, MixtureDistribution)
    if model.missing:
        return "values that may be missing"
    if not (
        isinstance(likelihood, Bernoulli)
        or (isinstance(likelihood, Gaussian) and likelihood.outputs_per_dim == 1)
    ):
        return "a likelihood other than bernoulli and gaussian with one sigma"
    # Of other likelihoods the encoder is wrapped.
    if not (isinstance(_encoder(model), MLP) and _is_mlp(_decoder(model)[0])):
        return "a network other than an MLP"
    if not isinstance(head, GaussianPosterior | PlanarPosterior):
        return "a posterior other than planar and Gaussian"
    if not isinstance(prior.components if mixture else prior, DiagonalGaussian):
        return "a prior other than a Gaussian and a mixture of Gaussians"
    known = isinstance(model.prior, NormalPrior | GaussianMixture)
    if model.condition is not None and not known and getattr(model.prior, "conditional", False):
        return "a prior that depends on the condition in a way of its own"
    if model.condition is not None and not can_be_chosen(model.condition):
        return "a condition of many columns or categories"
    return None


def can_be_chosen(condition: Sequence[Column]) -> bool:
    """Whether a condition has few enough columns, and these few enough categories, to set them."""
    widest = max(len(column.categories) for column in condition)
    return len(condition) <= _MOST_COLUMNS and widest <= _MOST_CATEGORIES


def _no_condition(model: VAE) -> Tensor | None:
    """y = 0: where what depends on y linearly begins."""
    place = next(model.parameters())
    return None if model.condition is None else place.new_zeros(model.condition_dim)


def _encoder(model: VAE) -> nn.Module:
    """What takes the values of a datum, and beside them its condition."""
    encoder = model.encoder
    if isinstance(encoder, RowEncoder) and encoder.transform is None and not encoder.missing:
        return encoder.body
    return encoder


def _decoder(model: VAE) -> tuple[nn.Module, nn.Linear | None]:
    """What takes z and the condition, and what the condition adds to the outputs directly."""
    decoder = model.decoder
    if isinstance(decoder, RowDecoder):
        return decoder.body, decoder.direct
    return decoder, None


def _is_mlp(decoder: nn.Module) -> bool:
    """Whether it is an MLP and an affine layer, as :meth:`MLP.decoder` makes it."""
    kinds = [type(module) for module in decoder.children()]
    return type(decoder) is nn.Sequential and kinds == [MLP, nn.Linear]


@torch.no_grad()
def live_model(model: VAE, arrays: Arrays) -> dict[str, Any]:
    """Layers, flows, likelihood and prior; the numbers go to ``arrays``.

    Of a conditional model the layers that see the condition have its weights apart, as ``given``,
    and the prior has slopes.
    """
    decoder, direct = _decoder(model)
    layers = _layers([decoder], arrays, model.condition_dim)
    if direct is not None:
        layers[-1]["given"] = arrays.add(direct.weight)
    head, C = model.posterior_head, model.condition_dim
    planar = isinstance(head, PlanarPosterior)
    shared = None
    if planar and not head.amortized:
        shared = arrays.add(torch.cat([head.shared[name].flatten() for name in ("w", "u", "b")]))
    return {
        "encoder": _layers([_encoder(model), head.heads], arrays, C),  # pyright: ignore
        "head": {
            "K": head.num_flows if planar else 0,
            "standardized": planar and head.standardized,
            "paper": planar and head.constraint == "paper",
            "bound": head.bound if planar else None,
            "shared": shared,
        },
        "decoder": layers,
        "likelihood": _likelihood(model),
        "prior": _prior(model, arrays),
    }


def _layers(modules: list[nn.Module], arrays: Arrays, C: int) -> list[dict[str, Any]]:
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    found: list[dict[str, Any]] = []
    for module in modules:
        if isinstance(module, nn.Linear):
            # The condition is the last C numbers of what enters the first layer.
            own = C if not found else 0
            weight, given = module.weight.split([module.in_features - own, own], 1)
            layer = {
                "kind": "affine",
                "weight": arrays.add(weight),
                "bias": arrays.add(module.bias),
                "inputs": weight.shape[1],
                "outputs": module.out_features,
            }
            found.append({**layer, "given": arrays.add(given)} if own else layer)
        elif isinstance(module, nn.GLU):
            found.append({"kind": "glu"})
        elif type(module) in names:
            found.append({"kind": names[type(module)]})
        else:
            found += _layers(list(module.children()), arrays, 0 if found else C)
    return found


def _likelihood(model: VAE) -> dict[str, Any]:
    if isinstance(model.likelihood, Bernoulli):
        return {"kind": "bernoulli"}
    device = next(model.parameters()).device
    p = model.likelihood(torch.zeros(1, model.data_dim, device=device))
    return {"kind": "gaussian", "log_sigma": float(p.log_sigma)}


def _prior(model: VAE, arrays: Arrays) -> dict[str, Any]:
    prior = model.prior_given(_no_condition(model))
    if isinstance(prior, MixtureDistribution):
        components, log_weights = prior.components, prior.log_weights
    else:
        components, log_weights = prior, torch.zeros(1)
    assert isinstance(components, DiagonalGaussian)  # noqa: S101  why_not_live
    return {
        "log_weights": arrays.add(log_weights),
        "loc": arrays.add(components.loc),
        "log_var": arrays.add(components.log_var.expand_as(components.loc)),
        "slopes": _slopes(model, arrays),
    }


def _slopes(model: VAE, arrays: Arrays) -> dict[str, int]:
    """By how much what the prior is made of grows with each number of the condition: (C, ...)."""
    own = model.prior
    if model.condition is None or getattr(own, "slope", None) is None:
        return {}
    if isinstance(own, NormalPrior) and own.slope is not None:
        loc, log_var = own.slope.chunk(2, -1)
        return {"loc": arrays.add(loc), "log_var": arrays.add(log_var)}
    return {"log_weights": arrays.add(own.slope)}  # pyright: ignore

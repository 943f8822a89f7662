"""The models that the page computes itself, as lists of layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from flowvae.distributions import DiagonalGaussian, MixtureDistribution
from flowvae.explorer.arrays import Arrays
from flowvae.likelihoods.bernoulli import Bernoulli
from flowvae.likelihoods.real import Gaussian
from flowvae.networks.mlp import ACTIVATIONS, MLP
from flowvae.posteriors.gaussian import GaussianPosterior
from flowvae.posteriors.planar import PlanarPosterior
from flowvae.vae import VAE

__all__ = ["live_model", "why_not_live"]


def why_not_live(model: VAE) -> str | None:
    """What of a model the page cannot compute; none if it can all of it."""
    head, likelihood, prior = model.posterior_head, model.likelihood, model.prior()
    mixture = isinstance(prior, MixtureDistribution)
    if not (
        isinstance(likelihood, Bernoulli)
        or (isinstance(likelihood, Gaussian) and likelihood.outputs_per_dim == 1)
    ):
        return "a likelihood other than bernoulli and gaussian with one sigma"
    if not isinstance(model.encoder, MLP):  # of other likelihoods the encoder is wrapped
        return "a network other than an MLP"
    if not isinstance(head, GaussianPosterior | PlanarPosterior):
        return "a posterior other than planar and Gaussian"
    if not isinstance(prior.components if mixture else prior, DiagonalGaussian):
        return "a prior other than a Gaussian and a mixture of Gaussians"
    return None


@torch.no_grad()
def live_model(model: VAE, arrays: Arrays) -> dict[str, Any]:
    """Layers, flows, likelihood and prior; the numbers go to ``arrays``."""
    head = model.posterior_head
    planar = isinstance(head, PlanarPosterior)
    shared = None
    if planar and not head.amortized:
        shared = arrays.add(torch.cat([head.shared[name].flatten() for name in ("w", "u", "b")]))
    return {
        "encoder": _layers([model.encoder, head.heads], arrays),  # pyright: ignore
        "head": {
            "K": head.num_flows if planar else 0,
            "standardized": planar and head.standardized,
            "paper": planar and head.constraint == "paper",
            "bound": head.bound if planar else None,
            "shared": shared,
        },
        "decoder": _layers([model.decoder], arrays),
        "likelihood": _likelihood(model),
        "prior": _prior(model, arrays),
    }


def _layers(modules: list[nn.Module], arrays: Arrays) -> list[dict[str, Any]]:
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    found: list[dict[str, Any]] = []
    for module in modules:
        if isinstance(module, nn.Linear):
            found.append(
                {
                    "kind": "affine",
                    "weight": arrays.add(module.weight),
                    "bias": arrays.add(module.bias),
                    "inputs": module.in_features,
                    "outputs": module.out_features,
                }
            )
        elif isinstance(module, nn.GLU):
            found.append({"kind": "glu"})
        elif type(module) in names:
            found.append({"kind": names[type(module)]})
        else:
            found += _layers(list(module.children()), arrays)
    return found


def _likelihood(model: VAE) -> dict[str, Any]:
    if isinstance(model.likelihood, Bernoulli):
        return {"kind": "bernoulli"}
    device = next(model.parameters()).device
    p = model.likelihood(torch.zeros(1, model.data_dim, device=device))
    return {"kind": "gaussian", "log_sigma": float(p.log_sigma)}


def _prior(model: VAE, arrays: Arrays) -> dict[str, int]:
    prior = model.prior()
    if isinstance(prior, MixtureDistribution):
        components, log_weights = prior.components, prior.log_weights
    else:
        components, log_weights = prior, torch.zeros(1)
    assert isinstance(components, DiagonalGaussian)  # noqa: S101  why_not_live
    return {
        "log_weights": arrays.add(log_weights),
        "loc": arrays.add(components.loc),
        "log_var": arrays.add(components.log_var.expand_as(components.loc)),
    }

"""From a configuration to a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowvae.config import Config
from flowvae.config.options import build
from flowvae.data.columns import Column, encoded_width
from flowvae.data.conditions import classes_of
from flowvae.errors import UserError
from flowvae.networks.inputs import RowDecoder, RowEncoder, encoder_shape
from flowvae.parts import PriorOfPosterior
from flowvae.registry import LIKELIHOODS, NETWORKS, OBJECTIVES, PRIORS
from flowvae.vae import VAE

__all__ = ["build_vae"]


def build_vae(
    config: Config,
    data_shape: Sequence[int],
    seed: int | None = None,
    columns: Sequence[Column] | None = None,
    condition: Sequence[Column] | None = None,
) -> VAE:
    """The model a configuration describes, for data of this shape, freshly initialised.

    Args:
        config: its families are looked up in :mod:`flowvae.registry`.
        data_shape: shape of one datum.
        seed: of the initial weights; ``config.seed`` if not given. torch's global random state
            is left as it was.
        columns: of a table, what the values of a row mean; kept with the model.
        condition: what the model is conditioned on, likewise; none if it is not.

    Raises:
        UserError: the prior cannot be that of a conditional model.
    """
    P, described = math.prod(data_shape), config.model
    D, network = described.latent_dim, described.network
    C = 0 if condition is None else encoded_width(condition)
    missing = config.data.missing == "model"
    support = LIKELIHOODS[described.likelihood.name].support
    if C and issubclass(PRIORS[described.prior.name], PriorOfPosterior):
        raise UserError(
            f"prior: {described.prior.name} is made of q(z|x), which a condition is part of; "
            "expected another prior with a condition"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed if seed is None else seed)
        images = getattr(NETWORKS[network.name], "takes_images", False)
        shape = data_shape
        if C or missing:
            shape = encoder_shape(data_shape, C, missing, images, network.name)
        encoder = build("network", network, maker="encoder", data_shape=shape)
        posterior_head = build(
            "posterior", described.posterior, in_features=encoder.out_features, latent_dim=D
        )
        prior = build(
            "prior",
            described.prior,
            latent_dim=D,
            data_dim=P,
            condition_dim=C,
            to_support=support.from_real,
        )
        likelihood = build("likelihood", described.likelihood, columns=columns)
        decoder = build(
            "network",
            network,
            maker="decoder",
            latent_dim=D + C,
            data_shape=data_shape,
            num_outputs=likelihood.num_outputs(P),
        )
        if C:
            decoder = RowDecoder(decoder, C, likelihood.num_outputs(P))
        transform = likelihood.encoder_input
        if C or missing:
            encoder = RowEncoder(encoder, data_shape, C, missing, images, transform)
        elif transform is not None:
            encoder = nn.Sequential(_Elementwise(transform), encoder)
        classifier = None
        if OBJECTIVES[config.objective.name].semi_supervised:
            classifier = _classifier(config, data_shape, classes_of(condition))
    return VAE(
        encoder,
        posterior_head,
        prior,
        decoder,
        likelihood,
        latent_dim=D,
        data_shape=data_shape,
        columns=columns,
        condition=condition,
        missing=missing,
        classifier=classifier,
    )


def _classifier(config: Config, data_shape: Sequence[int], classes: Sequence[str] | None) -> Any:
    """Values -> logits of q(y|x), by a body like the encoder's."""
    if classes is None:
        raise UserError(
            f"objective: {config.objective.name} needs classes to learn; expected condition=labels "
            "beside it, labels that are classes"
        )
    network, missing = config.model.network, config.data.missing == "model"
    images = getattr(NETWORKS[network.name], "takes_images", False)
    shape = data_shape
    if missing:
        shape = encoder_shape(data_shape, 0, missing, images, network.name)
    body = build("network", network, maker="encoder", data_shape=shape)
    logits = nn.Linear(body.out_features, len(classes))
    if missing:
        body = RowEncoder(body, data_shape, 0, missing, images, None)
    return nn.Sequential(body, logits)


class _Elementwise(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

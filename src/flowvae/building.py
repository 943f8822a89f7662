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
from flowvae.likelihoods import COLUMNS, ValueDistribution
from flowvae.missingness import SelfMasking
from flowvae.networks.inputs import RowDecoder, RowEncoder, encoder_shape
from flowvae.parts import PriorOfPosterior
from flowvae.registry import LIKELIHOODS, NETWORKS, OBJECTIVES, PRIORS
from flowvae.vae import VAE

__all__ = ["build_vae"]

Transform = Callable[[Tensor], Tensor]


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
        UserError: the prior cannot be that of a conditional model, or the likelihood not one of
            data that are not missing at random.
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
        body = _body(config, data_shape, C)
        posterior_head = build(
            "posterior", described.posterior, in_features=body.out_features, latent_dim=D
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
        missingness = _missingness(config, likelihood, P, columns)
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
        encoder = _given_rows(body, config, data_shape, C, transform)
        classifier = None
        if OBJECTIVES[config.objective.name].semi_supervised:
            classifier = _classifier(config, data_shape, transform, classes_of(condition))
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
        missingness=missingness,
    )


def _missingness(
    config: Config, likelihood: Any, data_dim: int, columns: Sequence[Column] | None
) -> SelfMasking | None:
    if config.model.missingness == "at_random":
        return None
    if config.data.missing != "model":
        raise UserError(
            f"missingness: expected missing=model beside {config.model.missingness}, got missing="
            f"{config.data.missing}"
        )
    name = config.model.likelihood.name
    p = likelihood(torch.zeros(likelihood.num_outputs(data_dim)))
    if not isinstance(p, ValueDistribution) or type(p).tilted is ValueDistribution.tilted:
        raise UserError(
            "missingness: expected a likelihood that knows E[σ(a + b x)], such as gaussian, "
            f"bernoulli or mixed, got {name}"
        )
    if likelihood.support is not COLUMNS and any(
        column.kind == "categorical" for column in columns or ()
    ):
        # The numbers of a one-hot code are there or missing together; others know of no codes.
        raise UserError(
            f"missingness: expected likelihood=mixed for a table with categories, got {name}"
        )
    return SelfMasking(data_dim, columns)


def _takes_images(config: Config) -> bool:
    return getattr(NETWORKS[config.model.network.name], "takes_images", False)


def _body(config: Config, data_shape: Sequence[int], condition_dim: int) -> Any:
    """An encoder's network, of values, their mask where some may be missing, and C numbers."""
    network, missing = config.model.network, config.data.missing == "model"
    shape = data_shape
    if condition_dim or missing:
        images = _takes_images(config)
        shape = encoder_shape(data_shape, condition_dim, missing, images, network.name)
    return build("network", network, maker="encoder", data_shape=shape)


def _given_rows(
    body: nn.Module,
    config: Config,
    data_shape: Sequence[int],
    condition_dim: int,
    transform: Transform | None,
) -> nn.Module:
    """A network of :func:`_body` that is given rows (B, P + C), their values transformed."""
    missing = config.data.missing == "model"
    if condition_dim or missing:
        images = _takes_images(config)
        return RowEncoder(body, data_shape, condition_dim, missing, images, transform)
    return body if transform is None else nn.Sequential(_Elementwise(transform), body)


def _classifier(
    config: Config,
    data_shape: Sequence[int],
    transform: Transform | None,
    classes: Sequence[str] | None,
) -> nn.Module:
    """Values -> logits of q(y|x), by a network like the encoder's."""
    if classes is None:
        raise UserError(
            f"objective: {config.objective.name} needs classes to learn; expected condition=labels "
            "beside it, labels that are classes"
        )
    body = _body(config, data_shape, 0)
    logits = nn.Linear(body.out_features, len(classes))
    return nn.Sequential(_given_rows(body, config, data_shape, 0, transform), logits)


class _Elementwise(nn.Module):
    """A function as a module."""

    def __init__(self, function: Transform) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

"""Where training starts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowvae.vae import VAE

__all__ = ["start_at_mean"]


def start_at_mean(model: VAE, mean: Float[Tensor, " P"]) -> None:
    """Set the bias of the decoder's last layer so that p(x|z) begins near the mean of the data.

    Args:
        model: changed in place.
        mean: of the training data.

    Raises:
        ValueError: the likelihood does not say which outputs have this mean, or the decoder does
            not end in a layer with a bias for each output.
    """
    outputs = model.likelihood.outputs_at_mean(mean)  # pyright: ignore[reportCallIssue]
    if outputs is None:
        raise ValueError(
            f"init_output_bias: expected a likelihood whose outputs follow from the data's mean, "
            f"got {type(model.likelihood).__name__}"
        )
    layers = list(model.decoder.modules())
    bias = getattr(layers[-1], "bias", None)
    if not isinstance(bias, Tensor) or len(bias) < len(outputs):
        raise ValueError(
            f"init_output_bias: expected a decoder that ends in a layer with a bias for each "
            f"output, got {type(layers[-1]).__name__}"
        )
    with torch.no_grad():
        bias.zero_()
        bias[: len(outputs)] = outputs

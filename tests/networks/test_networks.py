"""Encoders and decoders for any image."""

from __future__ import annotations

import pytest
import torch

import flowvae
from flowvae.registry import NETWORKS
from tests.helpers.families import data, model


@pytest.mark.parametrize("shape", [(28, 20), (3, 9, 7), (1, 1), (8, 6, 3), (5, 5, 2)])
@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "mlp"])
def test_convolutions_take_any_image(network, shape):
    made = model(shape, network=network, channels=(2, 3, 4), likelihood="discretized_logistic")
    x = data(made, 2)
    terms = made.elbo_terms(x, 3)
    assert terms.log_likelihood.shape == (3, 2)
    # One datum at a time is the same: nothing mixes the batch or the samples.
    z = torch.randn(3, 2, 3, dtype=torch.float64)
    together = made.decode(z).mean
    apart = made.decode(z[1, 1]).mean
    torch.testing.assert_close(together[1, 1], apart)
    assert made.decoder.get_submodule("1").bias.shape == (2 * made.data_dim,)


@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "mlp"])
def test_an_output_belongs_to_its_pixel(network):
    """A pixel's two outputs, mean and scale, lie where the likelihood looks for them."""
    for shape in ((2, 4, 6), (6, 5, 2)):
        made = model(shape, network=network, likelihood="gaussian", sigma="per_pixel")
        x = torch.zeros(shape, dtype=torch.float64)
        spot = (1, 2, 3) if shape[0] == 2 else (2, 3, 1)
        with torch.no_grad():
            x[spot] = 1
            bias = made.decoder.get_parameter("1.bias")
            bias[: made.data_dim] = 50 * x.flatten()
            mean = made.decode(torch.zeros(3, dtype=torch.float64)).mean.reshape(shape)
        assert mean.argmax() == x.argmax()
        # The map before it: neighbours in the image are neighbours in the picture of gradients.
        features = made.encoder(x.reshape(1, -1).requires_grad_())
        assert features.shape == (1, 8)


def test_networks_name_what_they_cannot_take():
    with pytest.raises(flowvae.UserError, match=r"network: resnet expects images .*got .*\(7,\)"):
        model((7,), network="resnet")

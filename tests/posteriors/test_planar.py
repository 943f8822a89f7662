"""The planar posterior."""

from __future__ import annotations

import pytest
import torch

from flowvae.posteriors import PlanarPosterior


def test_no_flows_is_the_gaussian():
    head = PlanarPosterior(in_features=6, latent_dim=3, num_flows=0)
    q = head(torch.randn(4, 6))
    z, log_q = q.rsample_and_log_prob((10,))
    torch.testing.assert_close(log_q, q.base.log_prob(z))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dim": 0}, "latent_dim: expected at least 1, got 0"),
        ({"num_flows": -1}, "num_flows: expected at least 0, got -1"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        PlanarPosterior(**{"in_features": 4, "latent_dim": 2, "num_flows": 3, **change})

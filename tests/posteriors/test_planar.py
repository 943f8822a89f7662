"""The planar posterior."""

from __future__ import annotations

import math

import pytest
import torch

from flowvae.distributions import FlowDistribution
from flowvae.flows import PlanarTransform
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


def planar(head: PlanarPosterior, features: torch.Tensor) -> PlanarTransform:
    q = head(features)
    assert isinstance(q, FlowDistribution)
    assert isinstance(q.bijection, PlanarTransform)
    return q.bijection


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_a_bound_keeps_the_expansion_of_every_layer(scale):
    """The largest singular value of a layer's Jacobian at tanh' = 1 is at most that of I + û wᵀ."""
    torch.manual_seed(0)
    head = PlanarPosterior(6, latent_dim=3, num_flows=4, bound=2.0, constraint="centred").double()
    free = PlanarPosterior(6, latent_dim=3, num_flows=4, constraint="centred").double()
    free.load_state_dict(head.state_dict())
    features = scale * torch.randn(50, 6, dtype=torch.float64)
    f, g = planar(head, features), planar(free, features)
    wu = (f.w * f.u).sum(-1)
    assert wu.abs().max() < 2
    raw = (g.w * g.u).sum(-1)
    torch.testing.assert_close(wu, raw / (1 + (raw / 2) ** 2).sqrt())
    _, ladj = f.forward_and_ladj(torch.randn(50, 3, dtype=torch.float64))
    assert ladj.max() < 4 * math.log(3)


def test_standardized_flows_start_near_the_identity():
    torch.manual_seed(0)
    head = PlanarPosterior(20, 2, 16, constraint="centred", standardized=True)
    features = torch.rand(100, 20)
    q = head(features)
    eps = torch.randn(100, 2)
    z, _, ladj = q.at_noise(eps)
    assert (z - q.base.at(eps)).abs().max() < 1.0
    assert ladj.abs().max() < 1.0
    f = planar(head, features)
    assert 0.3 < f.w.norm(dim=-1).mean() < 3
    assert f.u.norm(dim=-1).mean() < 0.2

"""The true posterior beside q."""

from __future__ import annotations

import pytest
import torch

import flowvae
from flowvae.config import resolve_config
from flowvae.figures import posterior_panels
from flowvae.figures.posterior import mesh_density, true_posterior


def test_the_true_posterior_is_where_importance_sampling_puts_it(run):
    """Its log p(x) agrees with 100,000 samples; its window holds the mass of q."""
    x = run.dataset.test.values(slice(3))
    for datum in x.split(1):
        q = run.model.posterior(datum)
        mesh = mesh_density(q)
        truth = true_posterior(run.model, datum, mesh)
        with torch.no_grad():
            bound = run.model.iw_bound(datum, 100_000, torch.Generator().manual_seed(0)).item()
        assert truth.log_prob == pytest.approx(bound, abs=0.04)
        z = q.rsample((1000,), torch.Generator().manual_seed(0))
        inside = ((z > truth.z.amin((0, 1))) & (z < truth.z.amax((0, 1)))).all(-1).float().mean()
        assert inside > 0.95


def test_posterior_panels_need_two_dimensions():
    model = flowvae.build_vae(resolve_config(latent_dim=3), (4,))
    with pytest.raises(ValueError, match="expected a flow posterior with D = 2"):
        posterior_panels(model, torch.rand(1, 4))

"""Log p(x, z) on a grid."""

from __future__ import annotations

import torch

from flowvae.evaluation import grid_log_joint
from tests.helpers.vaes import data, small


def test_grid_log_joint_is_the_model_density():
    model = small()
    x, z = data(model), torch.randn(9, 2).double()
    got = grid_log_joint(model, x, z, chunk=4)
    with torch.no_grad():
        for g in range(9):
            expected = model.decode(z[g]).log_prob(x) + model.prior().log_prob(z[g])
            torch.testing.assert_close(got[:, g], expected)

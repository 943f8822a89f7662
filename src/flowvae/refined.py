"""A model whose posterior is refined for each datum."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from flowvae.distributions import LatentDistribution
from flowvae.networks.inputs import pairs
from flowvae.refinement import refine
from flowvae.vae import VAE

__all__ = ["RefinedVAE"]


class RefinedVAE(VAE):
    """The same model, its modules shared, whose q(z|x) is refined for each datum.

    Bounds, estimators, reconstructions and pictures are then of the refined posterior.

    Args:
        model: the model.
        **options: of :func:`flowvae.refinement.refine`.

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5)).eval()
        >>> RefinedVAE(model, steps=4).elbo(torch.rand(3, 30), samples=100).shape
        torch.Size([3])
    """

    def __init__(self, model: VAE, **options: Any) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(model))
        self._refined = partial(refine, model, **options)

    def posterior(self, x: Tensor, condition: Any = None) -> LatentDistribution:
        return self._refined(self.rows(x, condition))

    def posteriors(self, values: Tensor, conditions: Tensor) -> LatentDistribution:
        return self.posterior(pairs(values, conditions))

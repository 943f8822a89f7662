"""The training loop."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from flowvae.config import Config
from flowvae.data import Batches, Dataset
from flowvae.objectives import build_objective
from flowvae.vae import VAE, ElboTerms

__all__ = ["RunningMeans", "Trainer"]


class Trainer:
    """Maximises the objective with Adam: model, optimizer, data on the device, and one generator.

    Order of the data, dynamic binarization and the posterior's noise all come from one generator
    seeded by the run's seed, so training leaves torch's global random state alone.

    Examples:
        >>> import numpy as np, torch
        >>> from flowvae import Config, build_vae
        >>> from flowvae.data import Dataset
        >>> config = Config(batch_size=10)
        >>> data = Dataset.from_arrays(np.random.rand(50, 6, 5), np.random.rand(9, 6, 5))
        >>> trainer = Trainer(build_vae(config, data.data_shape), data, config)
        >>> for terms in trainer.steps():  # one epoch
        ...     pass
        >>> terms.log_weight.shape
        torch.Size([1, 10])
    """

    def __init__(self, model: VAE, dataset: Dataset, config: Config) -> None:
        device = next(model.parameters()).device
        self.model = model
        self.max_grad_norm = config.max_grad_norm
        self.optimizer = torch.optim.Adam(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.batches = Batches(
            dataset.train.to(device),
            config.batch_size,
            self.generator,
            dynamic=dataset.binarization == "dynamic",
        )
        self.objective = build_objective(config, steps_per_epoch=len(self.batches))
        self.step = 0

    def steps(self) -> Iterator[ElboTerms]:
        """One epoch: after each step, the terms of its batch, detached, on the device."""
        self.model.train()
        for x in self.batches:
            loss, terms = self.objective(self.model, x, self.generator, self.step)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
            self.optimizer.step()
            self.step += 1
            yield ElboTerms(*(term.detach() for term in terms))


class RunningMeans:
    """Means of the reported terms over an epoch, summed on the device, read once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, terms: ElboTerms) -> None:
        means = terms.means()
        for name, value in means.items():
            total = value.double().sum() if value.device.type != "mps" else value.sum()
            self._sums[name] = self._sums.get(name, 0) + total
        self._count += len(means["elbo"])

    def read(self) -> dict[str, float]:
        """The means so far. Waits for the device."""
        values = torch.stack(list(self._sums.values())).tolist()
        return {name: v / self._count for name, v in zip(self._sums, values, strict=True)}

"""The training loop."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowvae.config import Part, TrainingSection
from flowvae.data import Batches, Dataset, Split
from flowvae.errors import TrainingError
from flowvae.files import write_bytes
from flowvae.objectives import build_objective
from flowvae.precision import networks_in
from flowvae.training.graph import StepGraph
from flowvae.training.means import RunningMeans
from flowvae.training.schedules import build_schedule
from flowvae.vae import VAE, ElboTerms

__all__ = ["Trainer"]

# Updates in a row without a finite gradient after which training is given up.
_MOST_SKIPPED = 50
_NORM_MEMORY = 0.01  # of the running mean of norms, the weight of a new one


class Trainer:
    """Maximises the objective with Adam; everything a run needs to go on is in here.

    Two generators seeded by the run's seed make a run repeatable and leave torch's global random
    state alone: one gives the order of the data, the other binarization and the draws of z.

    With ``averaging`` the weights' moving average is kept beside them; see
    :meth:`averaged_weights` and :meth:`settle`.

    An update whose gradient is not finite is left out and counted; after 50 in a row, or an epoch
    of nothing else, training stops. On a CUDA device the whole update is captured as one CUDA
    graph, where that can be done, and the terms stay on the device until they are read.

    Args:
        model: trained in place, where it is.
        dataset: its training data.
        training: the settings of this section.
        objective: what is maximised; the ELBO if not given.
        seed: of the order of the data, and of noise.

    Examples:
        >>> import numpy as np, torch
        >>> from flowvae import build_vae, preset
        >>> from flowvae.config import TrainingSection
        >>> from flowvae.data import Dataset
        >>> data = Dataset.from_arrays(np.random.rand(50, 6, 5), np.random.rand(9, 6, 5))
        >>> model = build_vae(preset("original"), data.data_shape)
        >>> trainer = Trainer(model, data, TrainingSection(batch_size=10))
        >>> for terms in trainer.steps():  # one epoch
        ...     pass
        >>> terms.log_weight.shape, trainer.epoch, int(trainer.step)
        (torch.Size([1, 10]), 1, 5)
        >>> trainer.save(tmp_path / "state.pt")   # and later, in a new trainer: load
    """

    def __init__(
        self,
        model: VAE,
        dataset: Dataset,
        training: TrainingSection | None = None,
        objective: Part | None = None,
        seed: int = 0,
    ) -> None:
        self.device = next(model.parameters()).device
        self.model, self.training = model, training or TrainingSection()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        within = ("encoder.", "posterior_head.")
        self._outside_encoder = [
            p for name, p in model.named_parameters() if not name.startswith(within)
        ]
        self.optimizer = _adam(self.parameters, self.training, self.device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.order = torch.Generator(self.device).manual_seed(seed)
        self._epoch_order = self.order.get_state()
        self.dynamic = dataset.binarization == "dynamic"
        self.feed(dataset.train)
        updates = -(-len(self.batches) // self.training.accumulate)
        self.objective = build_objective(objective or Part(name="elbo"), steps_per_epoch=updates)
        self.schedule = build_schedule(self.optimizer, self.training, updates)
        self.means = RunningMeans(self.device)
        self.epoch, self.position = 0, 0  # epochs done; updates done of the next
        zero = torch.zeros((), dtype=torch.long, device=self.device)
        # Updates done. Off the CPU whether one was done is known to the device alone.
        self.step = 0 if self.device.type == "cpu" else zero
        self.skipped, self._in_a_row = zero.clone(), zero.clone()
        # The running mean of the gradient's norm, and how many it has seen.
        self._usual_norm = torch.zeros(2, device=self.device)
        self._graph = self._new_graph()
        self.averaged: AveragedModel | None = None
        if self.training.averaging > 0:
            self.averaged = AveragedModel(model, multi_avg_fn=_moving_average(self.training))

    def _new_graph(self) -> StepGraph | None:
        if self.device.type != "cuda" or self.training.accumulate > 1:
            return None
        return StepGraph(self._update, self.generator)

    def feed(self, split: Split) -> None:
        """Take the batches of the epochs to come from here."""
        self.batches = Batches(
            split.to(self.device),
            self.training.batch_size,
            self.order,
            dynamic=self.dynamic,
            noise=self.generator,
        )

    def steps(self) -> Iterator[ElboTerms]:
        """What is left of this epoch: after each update, its terms, detached, on the device.

        Terms of a captured graph are overwritten by the next update. :attr:`means` has their means
        over the epoch.
        """
        self.model.train()
        if self.position == 0:
            self._epoch_order = self.order.get_state()
            self.means.reset()
        group = self.training.accumulate
        batches = self.batches.skipping(self.position * group)
        while xs := list(islice(batches, group)):
            graphed = self._graph is not None and len(xs[0]) == self.training.batch_size
            terms = self._graph(xs) if graphed else self._update(xs)  # pyright: ignore
            if self.schedule is not None:
                self.schedule.step()
            self.position += 1
            if self.averaged is not None:
                self.averaged.update_parameters(self.model)
            yield terms
        self._stop_if_hopeless(self.position)
        self.epoch, self.position = self.epoch + 1, 0

    def _update(self, xs: list[Tensor]) -> ElboTerms:
        """Forward, backward and update, on the mean gradient of some batches."""
        for _ in range(self.training.encoder_steps - 1):
            self._backward(xs)
            for parameter in self._outside_encoder:
                parameter.grad = None
            self._clip_and_step()
        terms = self._backward(xs)
        finite = self._clip_and_step()
        if isinstance(finite, Tensor):
            self._count_on_device(terms, finite)
        elif finite:
            self.step += 1
            self.means.add(terms)
            self._in_a_row.zero_()
        else:
            self.skipped += 1
            self._in_a_row += 1
            self._stop_if_hopeless(_MOST_SKIPPED)
        return terms

    def _backward(self, xs: list[Tensor]) -> ElboTerms:
        """The mean gradient of some batches, and their terms."""
        for parameter in self.parameters:
            parameter.grad = None
        found = []
        for x in xs:
            with networks_in(self.training.precision):
                loss, terms = self.objective(self.model, x, self.generator, self.step)
            (loss if len(xs) == 1 else loss / len(xs)).backward()
            found.append(terms)
        if len(found) == 1:
            return found[0]
        return ElboTerms(*(torch.cat(term, 1) for term in zip(*found, strict=True)))

    def _clip_and_step(self) -> bool | Tensor:
        """Clip and step, if the gradient's norm is finite; say whether it was.

        Off the CPU the answer is a tensor, so the device is not synchronized, and the optimizer
        leaves the update out.
        """
        most, optimizer = self.training.max_grad_norm, self.optimizer
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        clipped = norm
        if self.training.max_grad_ratio is not None:
            clipped = self._clip_to_usual(norm, self.training.max_grad_ratio)
        if most is not None:
            clip_grads_with_norm_(self.parameters, most, clipped)
        if self.device.type == "cpu":
            if finite := math.isfinite(norm):
                optimizer.step()
            return finite
        optimizer.found_inf = 1 - norm.isfinite().float()  # pyright: ignore
        optimizer.step()
        return norm.isfinite()

    def _clip_to_usual(self, norm: Tensor, ratio: float) -> Tensor:
        """Clip to a multiple of the running mean of such clipped norms, and give the norm then.

        A single gradient far larger than Adam's second moment moves every parameter by up to 30
        learning rates, over the steps in which the first moment forgets it.
        """
        usual, count = self._usual_norm
        largest = ratio * torch.where(count > 0, usual, norm)
        clip_grads_with_norm_(self.parameters, 1.0, norm / largest)
        clipped = torch.minimum(norm, largest)
        weight = (1 / (count + 1)).clamp(min=_NORM_MEMORY) * norm.isfinite()
        usual += weight * (clipped.nan_to_num(0.0, 0.0) - usual)
        count += norm.isfinite()
        return clipped

    def _count_on_device(self, terms: ElboTerms, finite: Tensor) -> None:
        """What is counted on the CPU, without waiting for the device."""
        self.step += finite
        self.means.add(terms, finite)
        self.skipped += ~finite
        self._in_a_row.add_(1).mul_(~finite)

    def _stop_if_hopeless(self, most: int) -> None:
        """Waits for the device."""
        count = int(self._in_a_row)
        if count >= min(most, _MOST_SKIPPED) > 0:
            raise TrainingError(
                f"training: the gradient was not finite in {count} updates in a row, in epoch "
                f"{self.epoch + 1}. Try a lower learning_rate, constraint=centred or "
                "max_grad_norm=50"
            )

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the model has its averaged weights, if there are such."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def settle(self) -> None:
        """Leave the model at its averaged weights, from which training may go on."""
        for mine, average in self._pairs():
            mine.copy_(average)

    @torch.no_grad()
    def _exchange(self) -> None:
        for mine, average in self._pairs():  # in place: a recorded update has their addresses
            kept = mine.clone()
            mine.copy_(average)
            average.copy_(kept)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.averaged is not None and self.averaged.n_averaged > 0:
            yield from zip(self.model.parameters(), self.averaged.module.parameters(), strict=True)

    def state_dict(self) -> dict[str, Any]:
        """All that training needs to go on exactly where it stands, between two updates."""
        return {
            "model": self.model.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "order": self._epoch_order if self.position else self.order.get_state(),
            "means": self.means.state_dict(),
            "counts": torch.stack([self.skipped, self._in_a_row]).cpu(),
            "usual_norm": self._usual_norm.clone(),
            "step": int(self.step),
            "epoch": self.epoch,
            "position": self.position,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, on the same data and settings."""
        self.model.load_state_dict(state["model"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            # PyTorch leaves it where the file was read: a graph would keep the number for ever.
            if isinstance(group["lr"], Tensor):
                group["lr"] = group["lr"].to(self.device)
        self._graph = self._new_graph()  # a recorded one works on the tensors from before
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self.order.set_state(state["order"])
        self._epoch_order = state["order"]
        self.means.load_state_dict(state["means"])
        for mine, count in zip((self.skipped, self._in_a_row), state["counts"], strict=True):
            mine.copy_(count)
        self._usual_norm.copy_(state["usual_norm"])
        if isinstance(self.step, Tensor):
            self.step.fill_(state["step"])
        else:
            self.step = state["step"]
        self.epoch, self.position = state["epoch"], state["position"]

    def save(self, path: str | Path) -> None:
        """Write :meth:`state_dict`, whole or not at all."""
        content = io.BytesIO()
        torch.save(self.state_dict(), content)
        write_bytes(path, content.getvalue())

    def load(self, path: str | Path) -> None:
        """Go on from what :meth:`save` wrote."""
        # Generators' states stay on the CPU; the rest is copied to where it belongs.
        self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def _moving_average(training: TrainingSection) -> Callable[..., None]:
    """θ̄ ← d θ̄ + (1 - d) θ, with d = min(decay, (1 + t)/(10 + t)) so that the start is forgotten."""

    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        t = int(count)
        get_ema_multi_avg_fn(min(training.averaging, (1 + t) / (10 + t)))(averaged, current, count)

    return update


def _adam(
    parameters: Sequence[Tensor], training: TrainingSection, device: torch.device
) -> torch.optim.Adam:
    rate: float | Tensor = training.learning_rate
    on_cuda = device.type == "cuda"
    if on_cuda:  # a graph reads the rate from the device
        rate = torch.tensor(rate, device=device)
    return torch.optim.Adam(
        parameters, lr=rate, weight_decay=training.weight_decay, fused=True, capturable=on_cuda
    )

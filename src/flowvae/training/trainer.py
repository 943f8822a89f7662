"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel

from flowvae import processes
from flowvae.config import Part, TrainingSection
from flowvae.data import Batches, Dataset, Split
from flowvae.errors import TrainingError, shown
from flowvae.objectives import build_objective
from flowvae.precision import networks_in
from flowvae.terms import ElboTerms
from flowvae.training.checkpoint import State, read_checkpoint, write_checkpoint
from flowvae.training.graph import StepGraph
from flowvae.training.means import RunningMeans
from flowvae.training.optimization import build_adam, clip_to_usual, moving_average
from flowvae.training.schedules import build_schedule, continue_schedule
from flowvae.vae import VAE

__all__ = ["Trainer"]

# Updates in a row without a finite gradient after which training is given up.
_MOST_SKIPPED = 50


class Trainer:
    """Maximises the objective with Adam; everything a run needs to go on is in here.

    Two generators seeded by the run's seed make a run repeatable and leave torch's global random
    state alone: one gives the order of the data, the other binarization and the draws of z.

    With ``averaging`` the weights' moving average is kept beside them; see
    :meth:`averaged_weights` and :meth:`settle`.

    An update whose gradient is not finite is left out and counted; after 50 in a row, or an epoch
    of nothing else, training stops. On a CUDA device the whole update is captured as one CUDA
    graph, where that can be done, and the terms stay on the device until they are read.

    Of several processes, see :mod:`flowvae.processes`, each works on its slice of every batch; the
    state is the same in all of them, and can be loaded into another number of processes.

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
        >>> trainer.save(tmp_path / "state.safetensors")   # and later, in a new trainer: load
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
        self.optimizer = build_adam(self.parameters, self.training, self.device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.order = torch.Generator(self.device).manual_seed(seed)
        self._epoch_order = self.order.get_state()
        self.dynamic = dataset.binarization == "dynamic"
        updates = math.ceil(len(dataset.train) / self.training.batch_size)
        updates = -(-updates // self.training.accumulate)
        self.objective = build_objective(objective or Part(name="elbo"), steps_per_epoch=updates)
        if self.objective.sums is not None:
            self.objective.sums = self.objective.sums.to(self.device)
        self.feed(dataset.train)
        self.schedule = build_schedule(self.optimizer, self.training, updates)
        # Or PyTorch warns of a wrong order where the first update is left out.
        self.optimizer._opt_called = True  # pyright: ignore
        self.means = RunningMeans(self.device)
        self.epoch, self.position = 0, 0  # epochs done; updates done of the next
        zero = torch.zeros((), dtype=torch.long, device=self.device)
        # Updates done. Off the CPU whether one was done is known to the device alone.
        self.step = 0 if self.device.type == "cpu" else zero
        self.skipped, self._in_a_row = zero.clone(), zero.clone()
        # The running mean of the gradient's norm, and how many it has seen: of the whole model and
        # of the encoder alone.
        self._usual_norm = torch.zeros(2, 2, device=self.device)
        self._graph = self._new_graph()
        self.averaged: AveragedModel | None = None
        if self.training.averaging > 0:
            self.averaged = AveragedModel(model, multi_avg_fn=moving_average(self.training))

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
            labelled=self.objective.labelled_batch,
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
            self.objective.forget()
        else:  # an epoch that was left in its middle
            self.order.set_state(self._epoch_order)
        group = self.training.accumulate
        batches = self.batches.skipping(self.position * group)
        terms = None
        while xs := list(islice(batches, group)):
            graphed = self._graph is not None and len(xs[0]) == self.batches.full_size
            terms = self._graph(xs) if graphed else self._update(xs)  # pyright: ignore
            if self.schedule is not None:
                self.schedule.step()
            self.position += 1
            if self.averaged is not None:
                self.averaged.update_parameters(self.model)
            yield terms
        self.means.gather()
        if self.position:
            self._stop_if_hopeless(self.position, self.position, terms)
        self.epoch, self.position = self.epoch + 1, 0

    def _update(self, xs: list[Tensor]) -> ElboTerms:
        """Forward, backward and update, on the mean gradient of some batches."""
        for _ in range(self.training.encoder_steps - 1):
            self._backward(xs)
            for parameter in self._outside_encoder:
                parameter.grad = None
            self._clip_and_step(self._usual_norm[1])
        terms = self._backward(xs)
        finite = self._clip_and_step(self._usual_norm[0])
        if isinstance(finite, Tensor):
            self._count_on_device(terms, finite)
        elif finite:
            self.step += 1
            self.means.add(terms)
            self._in_a_row.zero_()
        else:
            self.skipped += 1
            self._in_a_row += 1
            self._stop_if_hopeless(_MOST_SKIPPED, self.position + 1, terms)
        return terms

    def _backward(self, xs: list[Tensor]) -> ElboTerms:
        """The mean gradient of some batches, and their terms."""
        for parameter in self.parameters:
            parameter.grad = None
        found = []
        for x in xs:
            with processes.part_of_batch(len(x)) as mine, networks_in(self.training.precision):
                loss, terms = self.objective(self.model, x[mine], self.generator, self.step)
            (loss if len(xs) == 1 else loss / len(xs)).backward()
            found.append(terms)
        if len(found) == 1:
            return found[0]
        return ElboTerms(*(torch.cat(term, 1) for term in zip(*found, strict=True)))

    def _clip_and_step(self, usual_norm: Tensor) -> bool | Tensor:
        """Clip and step, if the gradient's norm is finite; say whether it was.

        Off the CPU the answer is a tensor, so the device is not synchronized, and the optimizer
        leaves the update out.
        """
        most, optimizer = self.training.max_grad_norm, self.optimizer
        processes.sum_gradients(self.parameters)
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        on_cpu = self.device.type == "cpu"
        if on_cpu and not math.isfinite(norm):  # clipping would spread it to all parameters
            return False
        clipped = norm
        if self.training.max_grad_ratio is not None:
            clipped = clip_to_usual(self.parameters, norm, usual_norm, self.training.max_grad_ratio)
        if most is not None:
            clip_grads_with_norm_(self.parameters, most, clipped)
        if on_cpu:
            optimizer.step()
            return True
        optimizer.found_inf = 1 - norm.isfinite().float()  # pyright: ignore
        optimizer.step()
        return norm.isfinite()

    def _count_on_device(self, terms: ElboTerms, finite: Tensor) -> None:
        """What is counted on the CPU, without waiting for the device."""
        self.step += finite
        self.means.add(terms, finite)
        self.skipped += ~finite
        self._in_a_row.add_(1).mul_(~finite)

    def _stop_if_hopeless(self, most: int, last: int, terms: ElboTerms | None) -> None:
        """Waits for the device. ``last`` is the last update's place in the epoch, of its terms."""
        count = int(self._in_a_row)
        if count >= min(most, _MOST_SKIPPED) > 0:
            raise TrainingError(
                f"training: the gradient was not finite in {count} updates in a row, the last "
                f"of them update {last} of epoch {self.epoch + 1}: {self._culprit(terms)}. Try a "
                "lower learning_rate, constraint=centred or max_grad_ratio=3"
            )

    def _culprit(self, terms: ElboTerms | None) -> str:
        """Which term is not finite, for how many data, or else which parameter's gradient."""
        for name, values in {} if terms is None else terms._asdict().items():
            bad = int((~values.isfinite()).any(0).sum())
            if bad:
                return f"{name} was not finite for {bad} of {values.shape[1]} data"
        if self.device.type != "cpu":  # clipping has spread it to all parameters
            return "every term was finite, the gradient was not"
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                return f"every term was finite, the gradient of {name} was not"
        return "every term and the gradient of every parameter was finite, its norm was not"

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

    def state_dict(self) -> State:
        """All that training needs to go on exactly where it stands, between two updates.

        Name -> a tensor or a number: weights as ``model.…`` and ``averaged.…``, Adam's moments as
        ``optimizer.<number>.…``, learning rates, generators, means and counts.
        """
        found: State = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.averaged is not None:
            found |= {f"averaged.{name}": v for name, v in self.averaged.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        for i, group in enumerate(self.optimizer.param_groups):
            found[f"rate.{i}"] = float(group["lr"])
        if self.schedule is not None:
            found["schedule"] = self.schedule.last_epoch
        found |= {f"means.{name}": value for name, value in self.means.state_dict().items()}
        if self.objective.sums is not None:
            found["objective"] = processes.summed(self.objective.sums).clone()
        return found | {
            "generator": self.generator.get_state(),
            "order": self._epoch_order if self.position else self.order.get_state(),
            "counts": torch.stack([self.skipped, self._in_a_row]).cpu(),
            "usual_norm": self._usual_norm.clone(),
            "epochs": self.training.epochs,
            "step": int(self.step),
            "epoch": self.epoch,
            "position": self.position,
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from what :meth:`state_dict` gave, on the same data and settings.

        With more or fewer epochs a ``cosine`` or ``one_cycle`` goes on at the rate that it would
        have there.

        Raises:
            ValueError: names, shapes or numbers are not those of this model and these settings.
        """
        self._check(state)

        def part(prefix: str) -> dict[str, Any]:
            return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}

        whole: dict[str, Any] = dict(state)
        self.model.load_state_dict(part("model."))
        if self.averaged is not None:
            self.averaged.load_state_dict(part("averaged."))
        moments: dict[int, dict[str, Any]] = {}
        for name, value in part("optimizer.").items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        for i, group in enumerate(self.optimizer.param_groups):
            rate = whole[f"rate.{i}"]
            # A graph reads the rate from the device: the tensor stays, its value changes.
            if isinstance(group["lr"], Tensor):
                group["lr"] = torch.tensor(rate, device=self.device)
            else:
                group["lr"] = rate
        self._graph = self._new_graph()  # a recorded one works on the tensors from before
        if self.schedule is not None:
            same = whole["epochs"] == self.training.epochs
            continue_schedule(self.schedule, whole["schedule"], same)
        if self.objective.sums is not None:
            mine = whole["objective"] if processes.is_first() else 0 * whole["objective"]
            self.objective.sums.copy_(mine)
        self.generator.set_state(whole["generator"])
        self.order.set_state(whole["order"])
        self._epoch_order = whole["order"]
        self.means.load_state_dict(part("means."))
        for mine, count in zip((self.skipped, self._in_a_row), whole["counts"], strict=True):
            mine.copy_(count)
        self._usual_norm.copy_(whole["usual_norm"])
        if isinstance(self.step, Tensor):
            self.step.fill_(whole["step"])
        else:
            self.step = whole["step"]
        self.epoch, self.position = whole["epoch"], whole["position"]

    def _check(self, state: State) -> None:
        """See that a state has the names, kinds and shapes of this trainer's own."""
        mine = self.state_dict()
        expected = {name: v for name, v in mine.items() if not name.startswith("optimizer.")}
        for i, parameter in enumerate(self.parameters):
            moments = {f"optimizer.{i}.{m}": parameter.data for m in ("exp_avg", "exp_avg_sq")}
            moments[f"optimizer.{i}.step"] = torch.zeros(())
            if any(name in state for name in moments):  # none before the first update
                expected |= moments
        for name in sorted({*expected, *state}):
            wanted, got = _kind(expected.get(name)), _kind(state.get(name))
            if wanted != got:
                raise ValueError(f"{shown(name)}: expected {wanted}, got {got}")
            if isinstance(number := state[name], int) and number < 0:
                raise ValueError(f"{name}: expected at least 0, got {number}")
        if int(state["position"]) > -(-len(self.batches) // self.training.accumulate):
            raise ValueError(f"position: expected one of the epoch's, got {state['position']}")

    def save(self, path: str | Path) -> None:
        """Write :meth:`state_dict` to a safetensors file, whole or not at all."""
        write_checkpoint(path, self.state_dict())

    def load(self, path: str | Path) -> None:
        """Go on from what :meth:`save` wrote.

        Raises:
            UserError: the file is corrupt.
            ValueError: it is of another model or other settings.
        """
        self.load_state_dict(read_checkpoint(path)[0])


def _kind(value: Tensor | float | None) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.")
    return "nothing" if value is None else type(value).__name__

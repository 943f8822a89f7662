"""Several processes that train or evaluate one model, on PyTorch's own engine.

Each has the whole model and takes its slice of every batch. The order of the data and all noise are
those of the whole batch: every process draws them from the same generators and keeps its own rows.
So the number of processes changes nothing but the order in which gradients are summed.

:func:`joined` begins and ends the work together. Outside of it, and in a single process, all
functions here leave everything as it is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from flowvae.errors import (
    ProcessLostError,
    TrainingError,
    UserError,
    file_complaint,
    one_line,
)

__all__ = [
    "alone",
    "batch_mean",
    "first_decides",
    "is_first",
    "joined",
    "largest",
    "launched",
    "noise_of_batch",
    "part_of_batch",
    "process_count",
    "share_out",
    "share_weights",
    "sum_gradients",
    "summed",
    "together",
    "whole_batch",
]

T = TypeVar("T")


class _Part(NamedTuple):
    """The rows that this process has of a batch."""

    start: int
    stop: int
    whole: int


_together: ContextVar[bool] = ContextVar("together", default=False)
_part: ContextVar[_Part | None] = ContextVar("part", default=None)


@contextmanager
def joined(timeout_minutes: float = 30.0) -> Iterator[None]:
    """Inside, the processes that ``torchrun`` started work on one model.

    Without ``torchrun``, or where it started one process, nothing changes. A process group that is
    there already is used, and left as it is; otherwise there is one with gloo for tensors on the
    CPU and NCCL for those on CUDA devices.

    Args:
        timeout_minutes: how long to wait for the others before giving up.

    Raises:
        ProcessLostError: another process did not come, or has gone.

    Examples:
        >>> with joined():        # torchrun --nproc-per-node 2 script.py
        ...     process_count()   # 2 there
        1
    """
    if _together.get() or not launched():
        yield
        return
    mine = not dist.is_initialized()
    if mine:
        gpu = torch.cuda.is_available() and dist.is_nccl_available()
        _start("cpu:gloo,cuda:nccl" if gpu else "gloo", timedelta(minutes=timeout_minutes))
    token = _together.set(True)
    try:
        yield
    finally:
        _together.reset(token)
        if mine:
            dist.destroy_process_group()


def launched() -> bool:
    """Whether ``torchrun`` started this process as one of several."""
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in needed) and os.environ["WORLD_SIZE"] != "1"


def _start(backend: str, timeout: timedelta) -> None:
    _careful(lambda: dist.init_process_group(backend, timeout=timeout))


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works for itself, whatever the others do."""
    token = _together.set(False)
    try:
        yield
    finally:
        _together.reset(token)


def process_count() -> int:
    """How many work together; 1 outside of :func:`joined`."""
    return dist.get_world_size() if _together.get() else 1


def _number() -> int:
    return dist.get_rank() if _together.get() else 0


def is_first() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return _number() == 0


def _careful(action: Callable[[], T]) -> T:
    """Call, and say it in one line where another process has gone."""
    try:
        return action()
    except RuntimeError as error:
        # Without gloo's place in its source, and its advice.
        reason = re.sub(r"^\[\S+ ?\S*\] ", "", one_line(str(error))).split(". ")[0]
        raise ProcessLostError(
            f"processes: another process has gone or cannot be reached: {reason}"
        ) from None


# What is decided or found together.


def together(action: Callable[[], T]) -> T:
    """Call it in all processes; where one of them fails, all raise its error.

    Raises:
        UserError: the first one that a process raised.
    """
    if process_count() == 1:
        return action()
    found, error = None, None
    try:
        found = action()
    except (UserError, TrainingError, OSError) as raised:
        error = UserError(file_complaint(raised)) if isinstance(raised, OSError) else raised
        if isinstance(error, ProcessLostError):
            raise
    told = _tell_all([None if error is None else [type(error).__name__, str(error)]])
    for number, (failed,) in enumerate(told):
        if failed is not None:
            kind = UserError if failed[0] == "UserError" else TrainingError
            raise kind(failed[1] if number == 0 else f"process {number}: {failed[1]}") from error
    return found  # pyright: ignore


def first_decides(action: Callable[[], T]) -> T:
    """Call it in the first process and give all its answer, something that JSON can hold.

    Raises:
        UserError: the first process raised it.
    """
    if process_count() == 1:
        return action()
    answers: list[Any] = []
    together(lambda: answers.append(action()) if is_first() else None)
    return _tell_all(answers)[0][0]


def _tell_all(values: list[Any]) -> list[list[Any]]:
    """What each process has to say, in their order."""
    text = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.long) for _ in range(process_count())]
    _careful(lambda: dist.all_gather(lengths, torch.tensor([len(text)])))
    longest = max(int(length) for length in lengths)
    padded = torch.nn.functional.pad(text, (0, longest - len(text)), value=ord(" "))
    texts = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
    _careful(lambda: dist.all_gather(texts, padded))
    return [json.loads(bytes(each.tolist())) for each in texts]


def share_out(items: Sequence[T], action: Callable[[T], object]) -> None:
    """Call it for every item, each in one of the processes, and wait until all are done.

    Raises:
        UserError: a process raised it.
    """

    def mine() -> None:
        for item in items[_number() :: process_count()]:
            action(item)

    together(mine)


def largest(values: Sequence[float]) -> list[float]:
    """Of each number the largest that a process has."""
    if process_count() == 1:
        return list(values)
    found = torch.tensor(values, dtype=torch.float64)
    _careful(lambda: dist.all_reduce(found, dist.ReduceOp.MAX))
    return found.tolist()


# A batch of which each has a part.


@contextmanager
def part_of_batch(count: int) -> Iterator[slice]:
    """Inside, a batch of so many data is shared out; gives the rows that are this process's own.

    Every process draws what :func:`noise_of_batch` is asked for, so all must ask for the same.

    Examples:
        >>> with part_of_batch(100) as mine:
        ...     mine
        slice(0, 100, None)
    """
    number, processes = _number(), process_count()
    start, stop = (count * each // processes for each in (number, number + 1))
    token = _part.set(_Part(start, stop, count) if processes > 1 else None)
    try:
        yield slice(start, stop)
    finally:
        _part.reset(token)


def noise_of_batch(
    shape: Sequence[int], dim: int, draw: Callable[[tuple[int, ...]], Tensor]
) -> Tensor:
    """Noise for the process's own rows of the batch; that for the others is drawn too.

    Args:
        shape: of this process's noise.
        dim: which of its dimensions goes over the batch.
        draw: gives noise of the shape that it is called with.

    Examples:
        >>> import torch
        >>> noise_of_batch((3, 5, 2), 1, torch.randn).shape
        torch.Size([3, 5, 2])
    """
    part, shape = _part.get(), tuple(shape)
    if part is None or len(shape) <= dim or shape[dim] != part.stop - part.start:
        return draw(shape)
    every = draw((*shape[:dim], part.whole, *shape[dim + 1 :]))
    return every.narrow(dim, part.start, part.stop - part.start).contiguous()


def whole_batch(count: int) -> int:
    """How many data the batch has of which the process has ``count``."""
    part = _part.get()
    return count if part is None else part.whole


def batch_mean(values: Tensor) -> Tensor:
    """The process's part of the mean over the batch: the parts of all sum to the mean.

    Args:
        values: (..., B), B the process's own data.
    """
    part = _part.get()
    if part is None:
        return values.mean()
    return values.sum() / (values.shape[:-1].numel() * part.whole)


def summed(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if process_count() == 1:
        return values
    found = values.clone()
    _careful(lambda: dist.all_reduce(found))
    return found


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by the sum over all processes, in one message.

    Gradients are of :func:`batch_mean`, so that their sum is that of the mean.
    """
    if process_count() == 1:
        return
    having = [p for p in parameters if p.grad is not None]
    flat = torch.cat([p.grad.reshape(-1) for p in having])  # pyright: ignore
    _careful(lambda: dist.all_reduce(flat))
    for parameter, grad in zip(having, flat.split([p.numel() for p in having]), strict=True):
        parameter.grad = grad.view_as(parameter)


@torch.no_grad()
def share_weights(weights: Iterable[Tensor]) -> None:
    """Give all the first process's weights: their own may differ in the last bit."""
    if process_count() > 1:
        for each in weights:
            _careful(lambda each=each: dist.broadcast(each, 0))

"""The training loop: any model, any torch optimizer, any loss, any source of batches."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from overparam_lib.training.probes import Probe

__all__ = [
    "DivergenceError",
    "History",
    "Series",
    "fresh_samples",
    "full_batch",
    "loss_below",
    "minibatches",
    "probe_reaches",
    "train",
]

Batch = tuple[torch.Tensor, torch.Tensor]
Stop = Callable[["History"], str | None]


class Series(NamedTuple):
    """What a probe measured.

    Attributes
    ----------
    steps : numpy.ndarray
        Number of updates made before each measurement, shape (k,).
    values : numpy.ndarray
        The measurements, shape (k,) for a number, (k, …) for an array.
    """

    steps: np.ndarray
    values: np.ndarray


@dataclass
class History:
    """The record of a training run.

    Attributes
    ----------
    losses : list of float
        ``losses[t]`` is the loss of the batch of step t, before that step's update.
    stopped : str
        Why the run ended: ``"steps done"``, ``"interrupted"``, or a stop condition's reason.

    Examples
    --------
    >>> history = History()
    >>> history.record("accuracy", 0, 0.1); history.record("accuracy", 10, 0.9)
    >>> history["accuracy"].steps.tolist(), history.final("accuracy")
    ([0, 10], 0.9)
    """

    losses: list[float] = field(default_factory=list)
    stopped: str = ""
    _measured: dict[str, tuple[list[int], list]] = field(default_factory=dict, repr=False)

    @property
    def steps(self) -> int:
        """Number of updates made."""
        return len(self.losses)

    @property
    def loss(self) -> np.ndarray:
        """The batch losses, shape (steps,)."""
        return np.array(self.losses)

    def __getitem__(self, name: str) -> Series:
        """Return what the probe of that name measured."""
        if name not in self._measured:
            raise KeyError(f"no probe named {name!r}; there are {list(self._measured)}")
        steps, values = self._measured[name]
        return Series(np.array(steps), np.array(values))

    def final(self, name: str) -> float | np.ndarray:
        """Return the last measurement of the probe of that name."""
        value = self[name].values[-1]
        return value.item() if np.ndim(value) == 0 else value

    def record(self, name: str, step: int, value: float | np.ndarray) -> None:
        """Append a measurement made after `step` updates."""
        steps, values = self._measured.setdefault(name, ([], []))
        steps.append(step)
        values.append(value)

    def last_step(self, name: str) -> int:
        """Return the step of the last measurement of a probe, -1 if there is none."""
        return self._measured[name][0][-1] if name in self._measured else -1


class DivergenceError(FloatingPointError):
    """The loss became infinite or NaN. The attribute ``history`` holds the run up to there."""

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


def full_batch(x: torch.Tensor, y: torch.Tensor) -> Iterator[Batch]:
    """Yield the whole data set at each step.

    Parameters
    ----------
    x, y : torch.Tensor
        Inputs and targets with the same first dimension n.

    Yields
    ------
    tuple of torch.Tensor
        ``(x, y)``.
    """
    _require_pairs(x, y)
    return _repeat((x, y))


def minibatches(
    x: torch.Tensor,
    y: torch.Tensor,
    batch_size: int,
    *,
    generator: torch.Generator,
    replacement: bool = False,
) -> Iterator[Batch]:
    """Yield mini-batches without end.

    Parameters
    ----------
    x, y : torch.Tensor
        Inputs and targets with the same first dimension n.
    batch_size : int
        Number b of samples in a batch, at most n.
    generator : torch.Generator
        Source of the order.
    replacement : bool, default False
        True draws each batch uniformly from all samples; False goes through a new permutation in each
        epoch (and drops the n mod b samples left at its end).

    Yields
    ------
    tuple of torch.Tensor
        b inputs and their targets.

    Raises
    ------
    ValueError
        If the lengths differ or `batch_size` is not in 1, …, n.
    """
    n = _require_pairs(x, y)
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must lie in 1..{n}, the number of samples, got {batch_size}")
    return _minibatches(x, y, batch_size, generator, replacement)


def fresh_samples(draw: Callable[[int], Iterable[torch.Tensor]], batch_size: int) -> Iterator[Batch]:
    """Yield batches that were never seen before, as in the theorems on the population loss.

    Parameters
    ----------
    draw : callable
        ``draw(batch_size)`` returns a fresh sample; its first two entries are the inputs and targets,
        as in ``lambda b: mixture.sample(b, generator=g)``.
    batch_size : int
        Number b of samples in a batch.

    Yields
    ------
    tuple of torch.Tensor
        b inputs and their targets.
    """
    while True:
        x, y, *_ = draw(batch_size)
        yield x, y


def loss_below(threshold: float, *, window: int = 1) -> Stop:
    """Stop once the mean of the last `window` batch losses is below `threshold`."""

    def stop(history: History) -> str | None:
        recent = history.losses[-window:]
        if len(recent) == window and sum(recent) / window < threshold:
            return f"loss below {threshold:g}"
        return None

    return stop


def probe_reaches(name: str, threshold: float) -> Stop:
    """Stop once the probe of that name has measured at least `threshold`."""

    def stop(history: History) -> str | None:
        reached = history.last_step(name) == history.steps and history.final(name) >= threshold
        return f"{name} reached {threshold:g}" if reached else None

    return stop


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    steps: int,
    probes: Sequence[Probe] = (),
    stop: Stop | Sequence[Stop] = (),
    history: History | None = None,
    progress: bool = True,
) -> History:
    r"""Train a model in place, and return what the probes saw.

    Step t takes the next batch :math:`(x, y)`, evaluates :math:`\ell(f(x;\theta_t), y)` and its
    gradient, and lets the optimizer make :math:`\theta_{t+1}`. A probe that measures at step t sees
    :math:`\theta_t`; each probe also measures the last iterate, whatever its schedule.

    Parameters
    ----------
    model : torch.nn.Module
        The model; it is changed.
    batches : iterable of (torch.Tensor, torch.Tensor)
        Inputs and targets, one pair a step: :func:`full_batch`, :func:`minibatches`,
        :func:`fresh_samples`, or a :class:`torch.utils.data.DataLoader`. If it ends, so does the run.
    loss : callable
        ``loss(prediction, target)`` returns a scalar, such as
        :func:`torch.nn.functional.cross_entropy`.
    optimizer : torch.optim.Optimizer
        Any optimizer of the model's parameters. It is called with a closure, so L-BFGS works too.
    steps : int
        Largest number of updates that this call makes.
    probes : sequence of Probe
        What to measure on the way. Each keeps a copy of what it needs from the initial model.
    stop : callable or sequence of callables
        Called with the history before each update; a returned text ends the run.
    history : History, optional
        A previous run of the same model and probes, to be continued: step numbers go on, and
        distances are still measured from the first start.
    progress : bool, default True
        Show a progress bar if the run takes more than a few seconds (``TQDM_DISABLE=1`` hides it).

    Returns
    -------
    History
        Batch losses, the probes' measurements, and why the run ended. Interrupting the kernel ends
        the run early and still returns the history.

    Raises
    ------
    ValueError
        If `steps` is negative, two probes have the same name, or `history` does not know a probe.
    DivergenceError
        If the loss becomes infinite or NaN; the history so far is its attribute ``history``.

    Examples
    --------
    >>> x = torch.tensor([[1.0], [2.0]]); y = 3 * x
    >>> model = nn.Linear(1, 1, bias=False)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> history = train(model, full_batch(x, y), loss=nn.functional.mse_loss, optimizer=sgd, steps=50)
    >>> history.steps, round(model.weight.item(), 4)
    (50, 3.0)
    """
    _require_run(steps, probes, history)
    conditions = (stop,) if callable(stop) else tuple(stop)
    if history is None:
        history = History()
        for probe in probes:
            probe.start(model)
    # An explicit `disable` overrides tqdm's own reading of TQDM_DISABLE.
    hidden = not progress or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    bar = tqdm(total=steps, delay=3, leave=False, disable=hidden, unit="step")
    try:
        history.stopped = _run(model, batches, loss, optimizer, steps, probes, conditions, history, bar)
    except KeyboardInterrupt:
        history.stopped = "interrupted"
    finally:
        bar.close()
    for probe in probes:
        _measure(probe, model, history)
    return history


def _run(model, batches, loss, optimizer, steps, probes, conditions, history, bar) -> str:
    source = iter(batches)
    for _ in range(steps):
        for probe in probes:
            if probe.schedule(history.steps):
                _measure(probe, model, history)
        for condition in conditions:
            if reason := condition(history):
                return reason
        if (batch := next(source, None)) is None:
            return "batches exhausted"
        history.losses.append(_update(model, batch, loss, optimizer))
        bar.update()
        if not math.isfinite(history.losses[-1]):
            message = f"the loss is {history.losses[-1]} at step {history.steps - 1}; try a smaller step size"
            raise DivergenceError(message, history)
    return "steps done"


def _update(model, batch, loss, optimizer) -> float:
    x, y = batch

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        return value

    return float(optimizer.step(closure).detach())


def _measure(probe: Probe, model: nn.Module, history: History) -> None:
    if history.last_step(probe.name) != history.steps:  # the last iterate may just have been measured
        history.record(probe.name, history.steps, probe(model))


def _repeat(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def _minibatches(x, y, batch_size, generator, replacement) -> Iterator[Batch]:
    n, where = len(x), generator.device
    while True:
        if replacement:
            epoch = torch.randint(n, (1, batch_size), generator=generator, device=where)
        else:
            order = torch.randperm(n, generator=generator, device=where)
            epoch = order[: n - n % batch_size].reshape(-1, batch_size)
        for rows in epoch.to(x.device):
            yield x[rows], y[rows]


def _require_pairs(x: torch.Tensor, y: torch.Tensor) -> int:
    if len(x) != len(y) or not len(x):
        raise ValueError(f"x and y must have the same positive length, got {len(x)} and {len(y)}")
    return len(x)


def _require_run(steps: int, probes: Sequence[Probe], history: History | None) -> None:
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    names = [probe.name for probe in probes]
    if len(set(names)) < len(names):
        raise ValueError(f"probes must have different names, got {names}; pass name=… to tell them apart")
    if history is not None and (new := [name for name in names if history.last_step(name) < 0]):
        raise ValueError(f"history has no measurement of the probes {new}; a continued run keeps its probes")

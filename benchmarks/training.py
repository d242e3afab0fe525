"""What the training loop and its probes cost, against a loop written by hand without any."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn.functional import cross_entropy

from benchmarks.row import Row, Timed, ratios
from overparam_lib.datasets import ClusteredMixture
from overparam_lib.networks import TwoLayer
from overparam_lib.runtime import generator
from overparam_lib.training import (
    Accuracy,
    DistanceToInit,
    History,
    PatternsChanged,
    Probe,
    SingularValues,
    at,
    minibatches,
    train,
)

CLASSES, BATCH = 10, 16


class Problem:
    """SGD on the first layer of a ReLU network, for the mixture of Li and Liang."""

    def __init__(self, width: int, dim: int, steps: int, samples: int = 1000) -> None:
        g = generator(0)
        mixture = ClusteredMixture.gaussian(num_classes=CLASSES, dim=dim, generator=g)
        self.training = mixture.sample(samples, generator=g)
        self.held_out = mixture.sample(250, generator=g)
        self.width, self.dim, self.steps = width, dim, steps

    def start(self) -> tuple[TwoLayer, torch.optim.SGD, Iterator]:
        """Return a new network, its optimizer and its batches: the same ones each time."""
        net = TwoLayer(self.dim, self.width, CLASSES, parameterization="standard", generator=generator(1))
        sgd = torch.optim.SGD([net.hidden_weight], lr=10 / self.width)
        return net, sgd, minibatches(self.training.x, self.training.y, BATCH, generator=generator(2))

    def few_probes(self) -> list[Probe]:
        """Distance, and patterns on 32 inputs, every 20 steps."""
        return [DistanceToInit(20), PatternsChanged(self.held_out.x[:32], 20)]

    def lecture_probes(self) -> list[Probe]:
        """Accuracy, patterns, distances and spectrum, as the lecture on clustered data measures them."""
        x, y = self.held_out.x, self.held_out.y
        often = at(*range(0, 60, 5), *range(60, self.steps, 60))
        return [
            Accuracy(x, y, often),
            PatternsChanged(x, 10),
            DistanceToInit(10),
            DistanceToInit(10, kind="relative"),
            SingularValues(at(), of="update"),
        ]


def by_hand(net: TwoLayer, sgd: torch.optim.SGD, batches: Iterator, steps: int) -> list[float]:
    """Train by the loop that everybody writes; return the losses."""
    losses = []
    for _ in range(steps):
        x, y = next(batches)
        sgd.zero_grad()
        loss = cross_entropy(net(x), y)
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    return losses


def by_train(net: TwoLayer, sgd: torch.optim.SGD, batches: Iterator, steps: int, **options) -> History:
    """Train by `train`, with the probes and the history in its options."""
    return train(net, batches, loss=cross_entropy, optimizer=sgd, steps=steps, progress=False, **options)


def a_step(problem: Problem, probes: Sequence[Probe], block: int, pairs: int) -> list[float]:
    """Return the ratios of two trainings that advance in turns, by a block of steps at a time.

    A block is the period of the probes: each has one measurement. What a run does only once, the
    probes' copies of the start, falls into the first pair, which does not count.
    """
    hand, ours, history = problem.start(), problem.start(), None

    def advance() -> None:
        nonlocal history
        history = by_train(*ours, block, probes=probes, history=history)

    return ratios(seconds(lambda: by_hand(*hand, block)), seconds(advance), pairs)


def a_run(problem: Problem, probes: Callable[[], list[Probe]], pairs: int) -> list[float]:
    """Return the ratios of whole runs: all that the probes do, at the start and the end too."""

    def with_start(loop: Callable, **options: Callable) -> Timed:
        def timed() -> float:
            state = problem.start()
            given = {name: make() for name, make in options.items()}
            return seconds(lambda: loop(*state, problem.steps, **given))()

        return timed

    return ratios(with_start(by_hand), with_start(by_train, probes=probes), pairs)


def seconds(work: Callable[[], object], least: float = 0.0) -> Timed:
    """Return a function that does the work and returns the seconds it took.

    Work of a few milliseconds is repeated until `least` seconds are over, and the mean returned: a single
    time would be that of caches and threads which the other side of the pair has left behind.
    """

    def timed() -> float:
        begun, times = time.perf_counter(), 0
        while not times or time.perf_counter() - begun < least:
            work()
            times += 1
        return (time.perf_counter() - begun) / times

    return timed


def rows(quick: bool = False) -> list[Row]:
    """Measure the ratios; `quick` is only to see that they can be measured."""
    wide = Problem(8, 4, 3, 20) if quick else Problem(4096, 1000, 20)
    lecture = Problem(8, 4, 3, 20) if quick else Problem(2048, 1000, 150)
    many, few = (2, 2) if quick else (50, 9)

    def row(name: str, problem: Problem, samples: list[float], target: float | None = None) -> Row:
        size = f"m={problem.width}, d={problem.dim}, batch {BATCH}, {problem.steps} steps at a time"
        what = f"{name}, over a loop by hand without probes: {size}, ReLU, cross-entropy, SGD"
        return Row(name, what, "ratio", samples, target)

    probes = wide.few_probes()
    few_name, all_name = "distance and 32 patterns every 20 steps", "the probes of the clustered-data lecture"
    return [
        row("train, no probe", wide, a_step(wide, (), wide.steps, many)),
        row(f"train, {few_name}", wide, a_step(wide, probes, wide.steps, many), 1.10),
        row(f"train, {all_name}", lecture, a_run(lecture, lecture.lecture_probes, few)),
    ]

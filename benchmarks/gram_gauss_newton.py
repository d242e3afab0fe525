"""What a Gram-Gauss-Newton step costs over one of SGD, and how soon it trains, against tuned optimizers.

The networks have no normalization by batches, as the method asks for. A peer that is not installed is left
out with a line that says so.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.row import Row, ratios
from benchmarks.training import seconds
from overparam_lib.datasets import load_images
from overparam_lib.networks import MLP
from overparam_lib.optim import GramGaussNewton
from overparam_lib.runtime import generator
from tools import ROOT

TARGET = 1e-3  # mean square of the residuals on the training set, labels of variance one
RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0)  # the same for every optimizer
SEARCH, LONGEST = 50, 600  # epochs of a run of the search, and of one with the rate that it found
BATCH = 128
LEAST = 0.1  # seconds for which steps are taken before it is the turn of the other side


class Block(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Add the two convolutions' result, without normalization."""
        return x + self.second(torch.relu(self.first(torch.relu(x))))


class ResidualNet(nn.Module):
    """A convolution, blocks, the mean over positions and a linear layer to one output."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.out = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs of shape (n,)."""
        return self.out(torch.relu(self.blocks(self.stem(x))).mean(dim=(2, 3)))[:, 0]


@dataclass(frozen=True)
class Problem:
    """A network, a batch, and the words for both."""

    words: str
    start: Callable[[], nn.Module]
    x: Tensor
    y: Tensor

    @classmethod
    def mlp(cls, batch: int, width: int = 1024, depth: int = 3, outputs: int | None = None) -> Problem:
        """Return a ReLU network of equal widths on Gaussian inputs of dimension 64."""
        g = generator(0)
        y = torch.randn((batch,) if outputs is None else (batch, outputs), generator=g)
        words = f"MLP of width {width}, depth {depth}, {outputs or 'scalar'} output{'s' * bool(outputs)}"
        return cls(
            f"{words}, batch {batch}",
            lambda: MLP(64, (width,) * depth, outputs, generator=generator(1)),
            torch.randn(batch, 64, generator=g),
            y,
        )

    @classmethod
    def residual(cls, batch: int, side: int, channels: int = 32, blocks: int = 3) -> Problem:
        """Return a residual convolutional network on Gaussian images."""
        g = generator(0)

        def start() -> nn.Module:
            with torch.random.fork_rng():
                torch.manual_seed(1)
                return ResidualNet(channels, blocks)

        words = (
            f"residual convnet, {2 * blocks + 1} convolutions of {channels} channels, {side}×{side} images"
        )
        x, y = torch.randn(batch, 1, side, side, generator=g), torch.randn(batch, generator=g)
        return cls(f"{words}, scalar output, batch {batch}", start, x, y)

    def sgd_step(self) -> Callable[[], object]:
        """Return a function that takes a step of plain SGD on the mean square."""
        net = self.start()
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            (net(self.x) - self.y).square().mean().backward()
            optimizer.step()

        return step

    def our_step(self, check_every: int = 100) -> Callable[[], object]:
        """Return a function that takes a step of Gram-Gauss-Newton, with its first checks behind it."""
        net = self.start()
        optimizer = GramGaussNewton(net, lr=1e-2, damping=100.0, check_every=check_every)

        def step() -> None:
            optimizer.step(lambda: net(self.x) - self.y)

        step(), step()
        if optimizer.by_jacobian or optimizer.raised:
            raise RuntimeError(f"not the step that was to be timed: {optimizer.by_jacobian or 'singular'}")
        return step


def step_rows(quick: bool) -> list[Row]:
    """Return the ratios of a step's time to one of SGD, on the same batch."""
    small = {"width": 8, "depth": 2} if quick else {}
    image = {"side": 4, "channels": 2, "blocks": 1} if quick else {"side": 16}
    pairs, least = (2, 0.0) if quick else (15, LEAST)
    scalar = Problem.mlp(8 if quick else 128, **small)
    measured = [
        (scalar, 1.25, {}),
        (Problem.mlp(4 if quick else 32, **small), 1.1, {}),
        (Problem.residual(4 if quick else 64, **image), 2.0, {}),
        (Problem.residual(4 if quick else 128, **{**image, "side": 4 if quick else 8}), None, {}),
        (Problem.mlp(8 if quick else 128, outputs=10, **small), None, {}),
        (scalar, None, {"check_every": 1}),
    ]
    found = []
    for problem, target, options in measured:
        sides = problem.sgd_step(), problem.our_step(**options)
        samples = ratios(*(seconds(step, least) for step in sides), pairs)
        more = ", checked every step" if options else ""
        name = f"Gram-Gauss-Newton over SGD, a step: {problem.words}{more}"
        what = f"{name}; each for {LEAST} s, in turns, float32"
        found.append(Row(name, what, "ratio", samples, target))
    return found


# Memory.


def memory_rows(quick: bool) -> list[Row]:
    """Return what training adds to the resident memory at its peak, each side in a process of its own."""
    problems = ["quick"] if quick else ["mlp", "residual"]
    found = []
    for which in problems:
        for side in ("sgd", "ours"):
            command = [sys.executable, "-m", "benchmarks.gram_gauss_newton", which, side]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
            answer = json.loads(done.stdout.splitlines()[-1])
            label = {"sgd": "SGD", "ours": "Gram-Gauss-Newton"}[side]
            name = f"peak memory of a step of {label}: {answer['words']}"
            found.append(
                Row(
                    name,
                    f"{name}; the network and, of ours, the first checks included, in a process of its own",
                    "MB",
                    [answer["mb"]],
                )
            )
    return found


def peak_of_steps(which: str, side: str) -> None:
    """Make a network, take some steps, and print how far this process's resident memory rose at most."""
    problem = {
        "quick": lambda: Problem.mlp(8, 8, 2),
        "mlp": lambda: Problem.mlp(128),
        "residual": lambda: Problem.residual(64, 16),
    }[which]()
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # the peak so far is forgotten
    before = _resident("VmRSS")
    step = problem.sgd_step() if side == "sgd" else problem.our_step()
    for _ in range(5):
        step()
    print(json.dumps({"words": problem.words, "mb": max(_resident("VmHWM") - before, 0.0)}))


def _resident(field: str) -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        raise RuntimeError("the peak of resident memory is read from /proc, which this system has not")
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1000


# Training.

Step = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class Run:
    """Losses after each epoch, and the seconds of its steps; the loss is measured outside that time."""

    losses: list[float]
    seconds: float

    @property
    def reached(self) -> bool:
        """Whether the target was reached."""
        return self.losses[-1] <= TARGET

    @property
    def diverged(self) -> bool:
        """Whether the loss came above ten."""
        return not self.losses[-1] < 10


class Regression:
    """Handwritten digits; the label is the digit's value, standardized."""

    def __init__(self, samples: int = 1280, widths: tuple[int, ...] = (256, 256)) -> None:
        data = load_images("digits")
        x, value = data.x[:samples], data.y[:samples].float()
        self.x, self.y = (x - x.mean()) / x.std(), (value - value.mean()) / value.std()
        self.widths = widths

    def run(self, make: Callable[[nn.Module, float], Step], rate: float, epochs: int) -> Run:
        """Train until the target is reached, the loss is above ten, or the epochs are over."""
        net = MLP(
            self.x.shape[1], self.widths, activation="tanh", weight_variance=1.0, generator=generator(1)
        )
        step, g, losses, spent = make(net, rate), generator(2), [], 0.0
        while len(losses) < epochs:
            begun = time.perf_counter()
            for rows in self._batches(g, getattr(make, "batch", BATCH)):
                step(self.x[rows], self.y[rows])
            spent += time.perf_counter() - begun
            with torch.no_grad():
                losses.append(float((net(self.x) - self.y).square().mean()))
            if (run := Run(losses, spent)).reached or run.diverged:
                break
        return run

    def _batches(self, g: torch.Generator, batch: int | None) -> Iterator[Tensor]:
        batch = min(batch or len(self.x), len(self.x))
        order = torch.randperm(len(self.x), generator=g)
        return iter(order[: len(order) - len(order) % batch].split(batch))


def _ours(net: nn.Module, rate: float) -> Step:
    optimizer = GramGaussNewton(net, lr=rate, damping=1.0)
    return lambda x, y: optimizer.step(lambda: net(x) - y)


def _by_gradient(optimizer: torch.optim.Optimizer, net: nn.Module) -> Step:
    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()

    return step


def _sgd(net: nn.Module, rate: float) -> Step:
    return _by_gradient(torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9), net)


def _adam(net: nn.Module, rate: float) -> Step:
    return _by_gradient(torch.optim.Adam(net.parameters(), lr=rate), net)


def _lbfgs(net: nn.Module, rate: float) -> Step:
    options = {"max_iter": 1, "history_size": 20, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS(net.parameters(), lr=rate, **options)

    def step(x: Tensor, y: Tensor) -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (net(x) - y).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)

    return step


_lbfgs.batch = None  # it wants all samples in each step, so that an epoch is an iteration


def _singd(net: nn.Module, rate: float) -> Step:
    from singd.optim.optimizer import SINGD

    return _by_gradient(SINGD(net, lr=rate), net)


def optimizers() -> dict[str, Callable[[nn.Module, float], Step]]:
    """Return the optimizers by name, ours first; a peer that is not installed is named and left out."""
    found = {
        "Gram-Gauss-Newton, α = 1": _ours,
        "SGD, momentum 0.9": _sgd,
        "Adam": _adam,
        "L-BFGS, full batch": _lbfgs,
    }
    peers.beside_torch()
    if find_spec("singd") is None:
        print(f"SINGD, a structured Kronecker-factored natural gradient, is left out: {peers.MISSING}")
    else:
        found["SINGD"] = _singd
    return found


def training_rows(quick: bool) -> list[Row]:
    """Search every optimizer's rate on the same grid, and compare the times at the best ones.

    The best is the one with the fewest epochs to the target, else the smallest loss, in a short run; if it
    diverges in a long one, the next best.
    """
    problem = Regression(64, (8,)) if quick else Regression()
    rates, search, longest, rounds = (RATES[6:8], 2, 3, 1) if quick else (RATES, SEARCH, LONGEST, 2)
    found, best, makers = [], {}, optimizers()
    for name, make in makers.items():
        runs = {rate: problem.run(make, rate, search) for rate in rates}
        found += [_row(f"search: {name}, rate {rate:g}", problem, run) for rate, run in runs.items()]
        for rate in sorted(runs, key=lambda rate: _rank(runs[rate])):
            run = problem.run(make, rate, longest)
            if not run.diverged:
                break
        best[name] = (rate, run)
    found += [_row(f"best: {name}, rate {rate:g}", problem, run) for name, (rate, run) in best.items()]
    # What does not reach the target has no time to it.
    timed = {name: rate for name, (rate, run) in best.items() if run.reached or quick}
    turns = [{n: problem.run(makers[n], rate, longest) for n, rate in timed.items()} for _ in range(rounds)]
    ours, *others = makers
    for name in (name for name in others if ours in timed and name in timed):
        samples = [turn[ours].seconds / turn[name].seconds for turn in turns]
        title = f"time to a loss of {TARGET:g}, {ours} over {name}"
        found.append(Row(title, f"{title}; at the best rates of the search, in turns", "ratio", samples))
    return found


def _rank(run: Run) -> tuple[float, float]:
    """Order runs: first by the epochs to the target, then by the loss."""
    loss = run.losses[-1] if math.isfinite(run.losses[-1]) else math.inf
    return (len(run.losses) if run.reached else math.inf, loss)


def _row(title: str, problem: Regression, run: Run) -> Row:
    """Return the epochs to the target, or the loss where they ended without it."""
    what = f"{title}, {len(problem.x)} digits, widths {problem.widths}, batch {BATCH}, tanh, one seed"
    if run.reached:
        return Row(title, f"{what}; epochs to a loss of {TARGET:g}", "epochs", [len(run.losses)])
    last = run.losses[-1]
    what += f"; the loss after {len(run.losses)} epochs, which did not reach {TARGET:g}"
    if not math.isfinite(last):
        what += "; 1e9 stands for a loss that is not finite"
    return Row(title, what, "loss", [last if math.isfinite(last) else 1e9])


def rows(quick: bool = False) -> list[Row]:
    """Measure all; `quick` is only to see that they can be measured."""
    return step_rows(quick) + memory_rows(quick) + training_rows(quick)


if __name__ == "__main__":
    peak_of_steps(*sys.argv[1:])

"""What kernels cost: against one matrix product, against the way by hand, against neural-tangents.

Ratios are taken in turns, and only between kernels that agree. What an evaluation costs as n grows is
measured in a process of its own for each n, since a process has one peak of memory; time and memory are
then fitted by powers of n.

``python -m benchmarks.kernels TASK N`` measures one such evaluation.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from benchmarks import peers
from benchmarks.lectures import peak_gb
from benchmarks.peers import Peer, PeerError
from benchmarks.row import Row, Timed, ratios
from benchmarks.training import seconds
from overparam_lib.kernels import MLPNTK, EmpiricalNTK, KernelDynamics, TwoLayerNTK, gram
from overparam_lib.runtime import generator
from tools import ROOT

DEPTH, DIM = 5, 784
LEAST = 0.1  # seconds for which a network's kernel is evaluated again and again; the peer does the same
AGREE = 1e-3  # of the largest entry: kernels that differ by more are not the same kernel


@dataclass(frozen=True)
class Sizes:
    """How large the compared kernels are, and how many pairs of times are taken."""

    analytic: int = 4000
    empirical: int = 64
    widths: tuple[int, ...] = (DIM, 512, 512, 512, 1)
    pairs: int = 7


QUICK = Sizes(analytic=20, empirical=4, widths=(6, 5, 1), pairs=2)


# -- ratios


def rows(quick: bool = False) -> list[Row]:
    """Measure the ratios and the costs; `quick` is only to see that they can be measured."""
    sizes = QUICK if quick else Sizes()
    with tempfile.TemporaryDirectory() as folder:
        peer = peers.neural_tangents()
        if peer is None:
            found = analytic(sizes, None, folder) + empirical(sizes, None, folder)
        else:
            with peer:
                found = analytic(sizes, peer, folder) + empirical(sizes, peer, folder)
    return found + [row for task in TASKS for row in growth(task, (4, 8) if quick else TASKS[task].sizes)]


def analytic(sizes: Sizes, peer: Peer | None, folder: str) -> list[Row]:
    """Compare the limit kernel with a product of matrices of the same size, and with the peer."""
    x = inputs(sizes.analytic)
    kernel = MLPNTK(depth=DEPTH)
    ours = seconds(lambda: kernel(x))
    size = f"MLPNTK(depth={DEPTH}) on {len(x)} × {DIM}, float32"
    product = ratios(seconds(lambda: x @ x.T), ours, sizes.pairs)
    first = Row("MLPNTK over X @ X.T", f"{size}, over X @ X.T in single precision", "ratio", product, 2.5)
    name, what = "neural-tangents over MLPNTK", f"neural-tangents, analytic kernel, compiled, over {size}"
    blank = Row(name, what, "ratio", (), 3, least=True)
    if peer is None:
        return [first, noted(blank, peers.MISSING)]
    request = {"x": _saved(folder, "x", x), "depth": DEPTH}
    return [first, against(peer, blank, kernel(x), ours, "analytic", request, sizes.pairs)]


def empirical(sizes: Sizes, peer: Peer | None, folder: str) -> list[Row]:
    """Compare the kernel of a network with contracted Jacobians, and with each of the peer's methods."""
    net, x = network(sizes.widths), inputs(sizes.empirical, sizes.widths[0])
    kernel = EmpiricalNTK(net)
    ours, found = seconds(lambda: kernel(x), LEAST), kernel(x)
    size = f"EmpiricalNTK of {'-'.join(map(str, sizes.widths))} at n={len(x)}, float32"
    name, what = "vmap(jacrev) over EmpiricalNTK", f"contracted Jacobians of torch.func over {size}"
    by_hand = compared(
        Row(name, what, "ratio", (), 50, least=True),
        difference(found, contracted_jacobians(net, x)),
        lambda: ratios(ours, seconds(lambda: contracted_jacobians(net, x), LEAST), sizes.pairs),
    )
    first = Row(
        "EmpiricalNTK, first call",
        f"the first call, which tests what the layers cover, over a later one, {size}",
        "ratio",
        ratios(ours, seconds(lambda: EmpiricalNTK(net)(x), LEAST), sizes.pairs),
    )
    name, what = "neural-tangents over EmpiricalNTK", f"neural-tangents, its best method, over {size}"
    blank = Row(name, what, "ratio", (), 30, least=True)
    if peer is None:
        return [by_hand, first, noted(blank, peers.MISSING)]
    request = {"x": _saved(folder, "few", x), "weights": _saved_layers(folder, net)}
    about = peer.ask("versions")
    methods = [
        against(
            peer,
            Row(f"neural-tangents, {method}", f"neural-tangents, {method}, over {size}", "ratio", ()),
            found,
            ours,
            "empirical",
            {**request, "method": method},
            sizes.pairs,
        )
        for method in about["methods"]
    ]
    return [by_hand, first, best(blank, methods, about["jax"]), *methods]


def against(peer: Peer, blank: Row, ours: Tensor, timed: Timed, task: str, request: dict, pairs: int) -> Row:
    """Fill a row with the times of the peer over ours, or with the reason why there are none."""
    out = str(Path(request["x"]).with_name("theirs.npy"))

    def asked() -> float:
        time.sleep(0.1)  # until this process's idle threads have stopped to wait for work on their cores
        return peer.ask(task, **request, out=out)["seconds"]

    try:
        asked()
    except PeerError as error:
        return noted(blank, str(error))
    theirs = torch.from_numpy(np.load(out))
    return compared(blank, difference(ours, theirs), lambda: ratios(timed, asked, pairs))


def compared(blank: Row, differences: tuple[float, float], measure: Callable[[], list[float]]) -> Row:
    """Fill a row with ratios if the two kernels agree; refuse to if they do not.

    Differences on the diagonal are told, not judged: neural-tangents in float32 is wrong by 1e-3 there,
    where an angle of zero is found by an arccosine.
    """
    off, on = differences
    said = f"off and on the diagonal by {off:.1e} and {on:.1e} of the largest entry"
    if not off <= AGREE:
        return noted(blank, f"REFUSED, the kernels differ {said}")
    return Row(**{**vars(blank), "samples": measure(), "note": f"kernels differ {said}"})


def best(blank: Row, methods: Sequence[Row], jax: str) -> Row:
    """Return the row of the method with the smallest ratio, and tell which failed."""
    ran = [row for row in methods if row.samples]
    failed = ", ".join(row.name.split(", ")[1] for row in methods if not row.samples)
    missing = f"; with jax {jax} there is no {failed}" if failed else ""
    if not ran:
        return noted(blank, f"no method{missing}")
    chosen = min(ran, key=lambda row: row.value)
    return noted(blank, f"{chosen.name.split(', ')[1]}{missing}", chosen.samples)


def noted(row: Row, note: str, samples: Sequence[float] = ()) -> Row:
    """Return a row with another note and other samples."""
    return Row(**{**vars(row), "samples": samples, "note": note})


def difference(one: Tensor, two: Tensor) -> tuple[float, float]:
    """Return the largest difference off the diagonal and on it, over the largest entry of the first."""
    if one.shape != two.shape:
        raise ValueError(f"kernels of shapes {tuple(one.shape)} and {tuple(two.shape)} cannot be compared")
    apart = (one - two).abs().flatten(2).amax(dim=2) if one.ndim > 2 else (one - two).abs()
    apart = torch.where(apart.isfinite(), apart, math.inf) / one.abs().max()
    on = apart.diagonal().max().item()
    return apart.clone().fill_diagonal_(0).max().item(), on


def contracted_jacobians(model: nn.Module, x: Tensor) -> Tensor:
    """Return the kernel as torch.func gives it: all Jacobians at once, contracted."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def outputs(values: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(model, values, (row[None],))[0]

    jacobians = vmap(jacrev(outputs), (None, 0))(parameters, x)
    return sum(torch.einsum("icp,jdp->ijcd", j, j) for j in (each.flatten(2) for each in jacobians.values()))


def inputs(n: int, dim: int = DIM) -> Tensor:
    """Return n standard Gaussian inputs, float32."""
    return torch.randn(n, dim, generator=generator(0))


def network(widths: Sequence[int]) -> nn.Sequential:
    """Return a ReLU network of linear layers as PyTorch starts them, the same one each time."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])


def _saved(folder: str, name: str, x: Tensor) -> str:
    path = Path(folder, f"{name}.npy")
    np.save(path, x.numpy())
    return str(path)


def _saved_layers(folder: str, net: nn.Sequential) -> str:
    path = Path(folder, "layers.npz")
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    weights = {f"weight{i}": layer.weight.detach().T.numpy() for i, layer in enumerate(layers)}
    np.savez(path, **weights, **{f"bias{i}": layer.bias.detach().numpy() for i, layer in enumerate(layers)})
    return str(path)


# -- growth with n


@dataclass(frozen=True)
class Task:
    """A kind of evaluation: from n the function to be measured, and the n to measure it at."""

    prepare: Callable[[int], Callable[[], object]]
    sizes: tuple[int, ...]
    what: str


def _evaluation(kernel: Callable[[Tensor], Tensor]) -> Callable[[int], Callable[[], object]]:
    def prepare(n: int) -> Callable[[], object]:
        x = inputs(n)
        return lambda: kernel(x)

    return prepare


def _empirical(n: int) -> Callable[[], object]:
    kernel, x = EmpiricalNTK(network(Sizes.widths)), inputs(n)
    return lambda: kernel(x)


def _tiled_product(n: int) -> Callable[[], object]:
    x, v = inputs(n), torch.ones(n, dtype=torch.float64)
    return lambda: gram(TwoLayerNTK(), x, max_memory=1e-9, tile=500).matvec(v)


def _dynamics(n: int) -> Callable[[], object]:
    matrix = TwoLayerNTK()(inputs(n).double())
    residual = torch.ones(n, dtype=torch.float64)
    return lambda: KernelDynamics(matrix, residual).residual(torch.tensor([1.0, 10.0]))


TASKS = {
    "TwoLayerNTK": Task(_evaluation(TwoLayerNTK()), (1000, 2000, 4000, 8000), "784 dimensions, float32"),
    "MLPNTK": Task(_evaluation(MLPNTK(DEPTH)), (1000, 2000, 4000, 8000), f"depth {DEPTH}, 784 dim., float32"),
    "EmpiricalNTK": Task(_empirical, (64, 256, 1024, 2048), "784-512-512-512-1, float32"),
    "gram in tiles": Task(_tiled_product, (1000, 2000, 4000, 8000), "a product, TwoLayerNTK, tiles of 500"),
    "KernelDynamics": Task(_dynamics, (500, 1000, 2000, 4000), "eigenbasis and residuals at two times"),
}


def growth(task: str, sizes: Sequence[int]) -> list[Row]:
    """Measure a task for several n, and fit its time and its memory by powers of n."""
    found = [_apart(task, n) for n in sizes]
    what = f"{task}: {TASKS[task].what}"
    each = [
        Row(f"{task}, n={n}: {label}", f"{what}, n={n}: {long}", unit, values)
        for n, taken in zip(sizes, found, strict=True)
        for label, long, unit, values in (
            ("time", "seconds", "s", taken["seconds"]),
            ("memory", "peak memory above what was there before", "GB", [taken["gb"]]),
        )
    ]
    times, memory = [median(taken["seconds"]) for taken in found], [taken["gb"] for taken in found]
    return each + [_fitted(task, what, "time", sizes, times), _fitted(task, what, "memory", sizes, memory)]


def _fitted(task: str, what: str, of: str, sizes: Sequence[int], values: Sequence[float]) -> Row:
    name = f"{task}: {of} as a power of n"
    long = f"{what}: least-squares exponent of {of} in n"
    if not min(values) > 0:
        return Row(name, long, "power", (), note="too little to be measured")
    exponent, deviation = power_law(sizes, values)
    return Row(name, long, "power", [exponent], note=f"fits within a factor {deviation:.2f}")


def power_law(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Fit values by c·n^p on logarithmic scales; return p, and the largest factor between fit and value."""
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float))
    slope, constant = np.polyfit(x, y, 1)
    return float(slope), float(np.exp(np.abs(slope * x + constant - y).max()))


def _apart(task: str, n: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.kernels", task, str(n)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{task} with n={n} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def evaluate(task: str, n: int, repetitions: int = 3) -> dict:
    """Return the seconds of some evaluations, and the gigabytes that their peak lies above the start."""
    work = TASKS[task].prepare(n)
    TASKS[task].prepare(2)()  # what is loaded once is not the evaluation's
    _forget_peak()
    before, taken = peak_gb(), []
    for _ in range(repetitions):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return {"seconds": taken, "gb": peak_gb() - before}


def _forget_peak() -> None:
    """Let the peak of memory start anew, at what is resident now; where there is no /proc, it goes on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main(task: str, n: str) -> None:
    """Print what an evaluation takes, as a last line of JSON."""
    print(json.dumps(evaluate(task, int(n))))


if __name__ == "__main__":
    main(*sys.argv[1:])

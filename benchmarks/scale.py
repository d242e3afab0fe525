r"""The data-dependent number yᵀH⁻¹y for all of MNIST, on a matrix that does not fit into memory.

H is the kernel of Du et al. and of Arora et al., `TwoLayerNTK("first")`, on images scaled to unit norm, and
y is 1 for a digit below 5, else -1. The answer comes from conjugate gradients on single-precision tiles. It
is first checked against Cholesky's factorization of the double-precision matrix of the first images.

For any x with residual r = y - Hx,

    yᵀH⁻¹y = 2 yᵀx - xᵀHx + rᵀH⁻¹r,

so 2 yᵀx - xᵀHx is a lower bound, wrong by at most |r|²/λ_min; it is what is printed, and with it how large
λ_min has to be for an error of 1e-3. What was done is kept in a folder: a run that was stopped, in whatever
way, goes on when it is started again.

``python -m benchmarks.scale [--n N] [--check N] [--out FOLDER] [--tiles auto|disk|fly]``
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.lectures import peak_gb
from overparam_lib.datasets import load_images
from overparam_lib.kernels import TwoLayerNTK, gram
from tools import ROOT
from tools.machine import commit, machine, now, versions

OUT = ROOT / "_build" / "scale"
TILE = 2048
TOLERANCE = 1e-3
RTOL = 1e-5
# What an independent computation in double precision gave for the first 8,000 images of MNIST.
KNOWN = {("mnist", 8000): 12210.448}
GIGABYTES, SECONDS = 8, 3600


class Answer(NamedTuple):
    """What was found, and how well it is known."""

    value: float
    iterations: int
    residual: float  # relative
    needed: float  # the smallest eigenvalue for which the value is wrong by at most the tolerance
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Check the way on the first images, then go it for all; return 0 if the check has been passed."""
    wanted = _parsed(arguments)
    x, y = load(wanted.dataset)
    if not 0 < wanted.n <= len(x):
        raise SystemExit(f"--n must be from 1 to {len(x)}, the images of {wanted.dataset}, got {wanted.n}")
    described = machine()
    print("{processor}, {cores} cores, {threads} threads".format(**described))
    check = min(wanted.check, wanted.n)
    report = {"started": now(), "commit": commit(), "machine": described, "versions": versions()}
    if check:
        compared, report["check"] = compare(wanted, x[:check], y[:check])
    report["n"], report["dataset"] = wanted.n, wanted.dataset
    answer = compared if check == wanted.n else solve(wanted, x[: wanted.n], y[: wanted.n])
    report |= answer._asdict() | {"peak_gb": peak_gb()}
    said = f"time {_verdict(answer.seconds, SECONDS, 's')}, memory {_verdict(peak_gb(), GIGABYTES, 'GB')}"
    print(f"n={wanted.n}: {said}")
    path = Path(wanted.out, f"{wanted.dataset}-{wanted.n}.json")
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(f"written to {path}")
    return 0


def load(dataset: str) -> tuple[Tensor, Tensor]:
    """Return the training images in double precision, of unit norm, and their labels 1 and -1."""
    images = load_images(dataset, dtype=torch.float64)
    return images.x, torch.where(images.y < 5, 1.0, -1.0).double()


def compare(wanted: argparse.Namespace, x: Tensor, y: Tensor) -> tuple[Answer, dict]:
    """Find the number in both ways; stop with an error if they do not agree, or not with what is known."""
    n = len(x)
    found = solve(wanted, x, y)
    begun = time.perf_counter()
    dense = gram(TwoLayerNTK(), x, max_memory=float("inf")).quadratic_form(y)
    print(f"n={n}, dense, float64: yᵀH⁻¹y = {dense:.3f}, {time.perf_counter() - begun:.0f} s")
    apart = abs(found.value - dense) / dense
    print(f"n={n}: relative difference {apart:.1e}")
    if not apart <= TOLERANCE:
        raise SystemExit(f"the two ways differ by {apart:.1e} of the answer, more than {TOLERANCE:g}")
    if (known := KNOWN.get((wanted.dataset, n))) is not None:
        print(f"n={n}: an independent computation gave {known:.3f}")
        if not abs(dense - known) <= 1e-6 * known:
            raise SystemExit(f"the dense answer {dense:.6f} is not the known one, {known}")
    return found, {"n": n, "dense": dense, "iterative": found.value, "relative_difference": apart}


def solve(wanted: argparse.Namespace, x: Tensor, y: Tensor) -> Answer:
    """Find the number by conjugate gradients on single-precision tiles, never on the whole matrix."""
    n, begun = len(x), time.perf_counter()
    folder = Path(wanted.out, f"{wanted.dataset}-{n}-tile{wanted.tile}")
    kept = tiles_on_disk(wanted.tiles, folder, n, wanted.tile)
    options = {"max_memory": 1e-12, "tile": wanted.tile, "out": folder, "keep_tiles": kept}
    matrix = gram(TwoLayerNTK(), x.float(), **options)
    solution = matrix.solve(y, rtol=wanted.rtol)
    image = matrix.matvec(solution.x)
    value = (2 * y @ solution.x - solution.x @ image).item()
    needed = (y - image).square().sum().item() / (TOLERANCE * value)
    answer = Answer(value, solution.iterations, solution.residual, needed, time.perf_counter() - begun)
    print(
        f"n={n}, tiles: yᵀH⁻¹y = {value:.3f}, {answer.iterations} iterations, relative residual "
        f"{answer.residual:.1e}, {answer.seconds:.0f} s in this run, peak memory {peak_gb():.2f} GB"
    )
    print(f"n={n}: wrong by at most {TOLERANCE:g} of it if λ_min is at least {needed:.1e}", flush=True)
    return answer


def tiles_on_disk(choice: str, folder: Path, n: int, tile: int) -> bool:
    """Choose whether tiles are kept in the folder, by what is free there, and say so."""
    starts = -(-n // tile)
    size = 4 * (n * n + starts * tile * tile) / 2  # the upper half, with whole tiles on the diagonal
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    there = sum(path.stat().st_size for path in folder.glob("tile-*.npy"))
    free = shutil.disk_usage(parent).free + there
    kept = choice == "disk" or (choice == "auto" and 1.25 * size <= free)
    if kept and size > free:
        raise SystemExit(
            f"--tiles disk: {size / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} are free"
        )
    where = f"kept in {folder}" if kept else "computed anew for each product"
    print(
        f"n={n}: tiles of {size / 1e9:.2f} GB, {free / 1e9:.1f} GB free, {there / size:.0%} there: {where}",
        flush=True,
    )
    return kept


def _verdict(value: float, limit: float, unit: str) -> str:
    return f"{value:.3g} of {limit:g} {unit}: {'met' if value <= limit else 'MISSED'}"


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-scale", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist", help="mnist by default; digits for a small run")
    parser.add_argument("--n", type=int, default=60000, help="images, 60000 by default")
    parser.add_argument("--check", type=int, default=8000, help="images of the dense check, 0 for none")
    parser.add_argument("--out", default=str(OUT), metavar="FOLDER", help="_build/scale by default")
    parser.add_argument("--tiles", choices=("auto", "disk", "fly"), default="auto", help="auto: by free disk")
    parser.add_argument("--tile", type=int, default=TILE, help=f"rows of a tile, {TILE} by default")
    parser.add_argument("--rtol", type=float, default=RTOL, help=f"relative residual, {RTOL:g} by default")
    wanted = parser.parse_args(arguments)
    if wanted.check < 0 or wanted.tile < 1 or not 0 < wanted.rtol < 1:
        parser.error("--check must not be negative, --tile be positive, and --rtol lie between 0 and 1")
    if wanted.dataset not in ("mnist", "digits"):
        parser.error(f"--dataset must be mnist or digits, whose labels are digits, got {wanted.dataset}")
    Path(wanted.out).mkdir(parents=True, exist_ok=True)
    return wanted


if __name__ == "__main__":
    sys.exit(main())

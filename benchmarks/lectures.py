"""Seconds and peak memory of each lecture, run as a script in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.row import Row
from tools import ROOT, notebooks
from tools.script import code_cells, run

THREADS = 2  # the lectures promise their time on two cores


def rows(lectures: Sequence[Path] | None = None) -> list[Row]:
    """Measure every lecture, or those given, once."""
    return [row for path in (notebooks() if lectures is None else lectures) for row in measure(path)]


def measure(path: Path) -> list[Row]:
    """Run one lecture under the CPU profile; the first import of PyTorch is part of the time."""
    variables = {f"{library}_NUM_THREADS": str(THREADS) for library in ("OMP", "MKL", "OPENBLAS")}
    environment = {**os.environ, **variables, "OVERPARAM_PROFILE": "cpu", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-m", "benchmarks.lectures", str(path.resolve())]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{path} failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    how = f"as a script, {THREADS} threads, CPU profile"
    return [
        Row(f"{path.stem}: time", f"{path.stem} {how}", "s", [found["seconds"]], 60),
        Row(f"{path.stem}: memory", f"peak resident memory of {path.stem} {how}", "GB", [found["gb"]], 1.5),
    ]


def peak_gb() -> float:
    """Return the largest resident memory of this process so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        # Unlike getrusage, this does not count what the parent held when it forked.
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main(path: str) -> None:
    """Run a lecture and print what it took, as a last line of JSON."""
    begun = time.perf_counter()
    run(code_cells(Path(path)))
    print(json.dumps({"seconds": time.perf_counter() - begun, "gb": peak_gb()}))


if __name__ == "__main__":
    main(sys.argv[1])

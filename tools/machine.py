"""What a recording and a benchmark say about the machine and the state of the code."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tools import ROOT

# A recording does not change what is computed, so an uncommitted one does not make the code another.
_NO_CODE = ("data/recorded",)


def machine() -> dict[str, Any]:
    """Return processor, memory, system, and the graphics card if there is one."""
    import torch

    described = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "system": platform.platform(terse=True),
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def processor() -> str:
    """Return the processor's own name, or at least its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions that results can depend on."""
    import numpy
    import torch

    import overparam_lib

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "overparam_lib": overparam_lib.__version__,
    }


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def commit(root: Path = ROOT) -> str | None:
    """Return the commit that is checked out, or None where git cannot say."""
    return _git(root, "rev-parse", "HEAD") or None


def changes(root: Path = ROOT) -> list[str]:
    """Return what differs from the commit, a line a file, as ``git status`` names it."""
    apart = [f":!{folder}" for folder in _NO_CODE]
    return _git(root, "status", "--porcelain", "--", ".", *apart).splitlines()


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.rstrip("\n") if done.returncode == 0 else ""


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None

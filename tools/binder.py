"""Write ``binder/requirements.txt``: the versions of ``requirements.lock`` that a lecture needs to run.

    python -m tools.binder

Torch is pinned to the CPU build of PyTorch's own index by its local version: CPU or failure, never CUDA.
The kernel is Binder's own, of the same environment as its server, which pins of ours could break.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import ROOT

REQUIREMENTS = ROOT / "binder" / "requirements.txt"
_HEAD = """\
# Written by `python -m tools.binder` from requirements.lock; `make lock` calls it.
--extra-index-url https://download.pytorch.org/whl/cpu
"""


def needed(roots: tuple[str, ...] = ("overparam-lib",)) -> set[str]:
    """Return the names of packages and of all that they need here, extras aside."""
    found, waiting = set(), {canonicalize_name(root) for root in roots}
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= _direct(name) - found
    return found


def requirements(lock: str, names: set[str]) -> str:
    """Return the file's text: those of a lock's pins that are needed."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", lock, re.M))
    kept = {name: version for name, version in pins.items() if canonicalize_name(name) in names}
    kept["torch"] += "+cpu"
    return _HEAD + "".join(f"{name}=={version}\n" for name, version in sorted(kept.items()))


def current() -> str:
    """Return what the file must hold now."""
    return requirements((ROOT / "requirements.lock").read_text("utf-8"), needed())


def _direct(name: str) -> set[str]:
    try:
        wanted = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:  # of another platform
        return set()
    return {canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})}


if __name__ == "__main__":
    REQUIREMENTS.write_text(current(), "utf-8")
    sys.exit(0)

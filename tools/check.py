"""Run the project's checks, part by part, and report the minutes that each took.

    python -m tools.check            all parts
    python -m tools.check nbval      one part

Fails if a check fails, if something that it needs is missing, or if a part takes longer than its budget.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools import ROOT, SITE, notebooks
from tools.kernels import ONE_THREAD, PORTABLE, kernel_environment

Command = tuple[list[str], Mapping[str, str]]

_PYTHON = sys.executable
_FOLDERS_WITH_A_PART = ("tests/site", "tests/browser")  # they look at the built site
_NOT_YET = ("assignments",)


@dataclass(frozen=True)
class Part:
    """A named list of commands, run in order until one fails, within a budget of minutes."""

    name: str
    budget: float
    needs: tuple[str, ...]
    commands: Callable[[], Iterator[Command]]
    program: str = ""  # on PATH, or named by the variable of that name


@dataclass(frozen=True)
class Outcome:
    """What became of a part."""

    part: Part
    minutes: float
    problem: str = ""

    @property
    def verdict(self) -> str:
        """The word that the table shows."""
        if self.problem:
            return self.problem
        return "over budget" if self.minutes > self.part.budget else "passed"


def lint() -> Iterator[Command]:
    """Code and notebooks, by ruff."""
    yield [_PYTHON, "-m", "ruff", "check", "."], os.environ


def unit() -> Iterator[Command]:
    """All tests that need no built site."""
    ignored = [f"--ignore={folder}" for folder in _FOLDERS_WITH_A_PART]
    environment = {**os.environ, **ONE_THREAD, "MPLBACKEND": "agg"}
    yield _pytest("-n", "2", *ignored, "tests"), environment


def nbval(**variables: str) -> Iterator[Command]:
    """Every cell of every lecture: its stored output and its claims come out again."""
    with tempfile.TemporaryDirectory() as folder:
        log = str(Path(folder) / "claims.jsonl")
        rerun = _pytest(
            *("-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"),
            *("--nbval", "--nbval-current-env", "--nbval-cell-timeout", "300"),
            *("--nbval-sanitize-with", "tests/nbval_sanitize.cfg", "chapters"),
        )
        yield rerun, kernel_environment(OVERPARAM_CLAIM_LOG=log, **variables)
        yield [_PYTHON, "-m", "tools.claims", log], os.environ


def portable() -> Iterator[Command]:
    """The same with the arithmetic of an older processor."""
    yield from nbval(**PORTABLE)


def book() -> Iterator[Command]:
    """The site, built from scratch with warnings as errors, and its pages."""
    shutil.rmtree(SITE.parent, ignore_errors=True)
    yield _build()
    yield _pytest("tests/site"), os.environ


def browser() -> Iterator[Command]:
    """Every page of the site in Chromium: at two sizes, light and dark."""
    if not (SITE / "intro.html").is_file():
        yield _build()
    yield _pytest("tests/browser"), os.environ


PARTS = {
    part.name: part
    for part in (
        Part("lint", 1, ("ruff",), lint),
        Part("unit", 6, ("pytest", "xdist", "mpmath"), unit),
        Part("nbval", 12, ("pytest", "xdist", "nbval", "ipykernel"), nbval),
        Part("portable", 14, ("pytest", "xdist", "nbval", "ipykernel"), portable),
        Part("book", 4, ("pytest", "jupyter_book", "sphinx_proof", "numpydoc", "bs4"), book),
        Part("browser", 10, ("pytest", "playwright", "axe_playwright_python"), browser, "chromium"),
    )
}


def run(part: Part) -> Outcome:
    """Run a part's commands, and time them."""
    print(f"\n== {part.name}: {part.commands.__doc__.splitlines()[0]}", flush=True)
    start = time.perf_counter()
    problem = _missing(part) or _first_failure(part)
    return Outcome(part, (time.perf_counter() - start) / 60, problem)


def table(outcomes: list[Outcome]) -> str:
    """Return minutes against budget as text, a line a part."""
    rows = [(o.part.name, f"{o.minutes:.1f}", f"{o.part.budget:g}", o.verdict) for o in outcomes]
    total = sum(o.minutes for o in outcomes), sum(o.part.budget for o in outcomes)
    rows.append(("all", f"{total[0]:.1f}", f"{total[1]:g}", ""))
    head = ("part", "minutes", "budget", "")
    return "\n".join(f"{a:10}{b:>8}{c:>8}  {d}".rstrip() for a, b, c, d in (head, *rows))


def main(name: str = "") -> int:
    """Run one part or all; return the exit status."""
    if name in _NOT_YET:
        print(f"PART={name} does not exist yet: there are {', '.join(PARTS)}")
        return 2
    if name and name not in PARTS:
        print(f"there is no PART={name}; there are {', '.join(PARTS)}")
        return 2
    if not notebooks():
        print("chapters/ holds no lecture: there is nothing to check")
        return 1
    outcomes = [run(part) for part in ([PARTS[name]] if name else PARTS.values())]
    print("\n" + table(outcomes))
    failed = [o.part.name for o in outcomes if o.verdict != "passed"]
    print(f"failed: {', '.join(failed)}" if failed else "all parts passed")
    return 1 if failed else 0


def _pytest(*arguments: str) -> list[str]:
    strict = ("-p", "tools.no_skips") if os.environ.get("OVERPARAM_NO_SKIPS") else ()
    return [_PYTHON, "-m", "pytest", "-q", *strict, *arguments]


def _build() -> Command:
    program = str(Path(_PYTHON).parent / "jupyter-book")
    return [program, "build", ".", "-W", "-n", "--keep-going", "-q"], os.environ


def _missing(part: Part) -> str:
    absent = [module for module in part.needs if importlib.util.find_spec(module) is None]
    if absent:
        return f"missing: {', '.join(absent)} (make env)"
    if part.program and shutil.which(os.environ.get(part.program.upper()) or part.program) is None:
        return f"missing: {part.program} (apt install {part.program})"
    return ""


def _first_failure(part: Part) -> str:
    for command, environment in part.commands():
        status = subprocess.run(command, cwd=ROOT, env=dict(environment)).returncode
        if status != 0:
            program = command[2] if command[1] == "-m" else Path(command[0]).name
            return f"failed: {program} exited with {status}"
    return ""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

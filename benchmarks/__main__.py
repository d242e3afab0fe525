"""Run the benchmarks, print their table, and write it as JSON with the machine's description.

``python -m benchmarks [training] [kernels] [optimizer] [lectures] [--quick]``
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
from pathlib import Path

from benchmarks import gram_gauss_newton, kernels, lectures, training
from benchmarks.row import Row, table
from tools import ROOT
from tools.machine import changes, commit, machine, now, versions

RESULTS = ROOT / "_build" / "bench"
GROUPS = ("training", "kernels", "optimizer", "lectures")


def main(arguments: list[str] | None = None) -> int:
    """Measure the groups of rows that the command line names, by default all."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", metavar="group", help=" or ".join(GROUPS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that it runs")
    parser.add_argument("--to", default=str(RESULTS), metavar="FOLDER", help="_build/bench by default")
    wanted = parser.parse_args(arguments)
    if unknown := set(wanted.groups) - set(GROUPS):
        parser.error(f"there is no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    started, described = now(), machine()
    print("{processor}, {cores} cores, {threads} threads unless a row says otherwise".format(**described))
    rows = _measure(wanted.groups or GROUPS, wanted.quick)
    print(table(rows))
    content = {
        "started": started,
        "quick": wanted.quick,
        "commit": commit(),
        "dirty": bool(changes()),
        "machine": described,
        "versions": versions(),
        "rows": [as_json(row) for row in rows],
    }
    print(f"written to {_write(content, Path(wanted.to))}")
    return 0


def as_json(row: Row) -> dict:
    """Return a row with its samples."""
    return {
        "name": row.name,
        "what": row.what,
        "unit": row.unit,
        "median": row.value,
        "samples": list(row.samples),
        "target": row.target,
        "least": row.least,
        "note": row.note,
    }


def _measure(groups: list[str] | tuple[str, ...], quick: bool) -> list[Row]:
    rows = training.rows(quick) if "training" in groups else []
    rows += kernels.rows(quick) if "kernels" in groups else []
    rows += gram_gauss_newton.rows(quick) if "optimizer" in groups else []
    # A lecture has one size, so a quick look leaves the lectures out.
    return rows + (lectures.rows() if "lectures" in groups and not quick else [])


def _write(content: dict, folder: Path) -> Path:
    host = re.sub(r"\W+", "-", platform.node()) or "unknown"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub(r'[:]', '', content['started'])}-{host}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())

"""Run a lecture's code cells as a plain script, without Jupyter.

    python -m tools.script chapters/2_clustered_data/3_what_sgd_does.ipynb

needs nothing but the library and what it depends on, so it also runs where no notebook can.
"""

from __future__ import annotations

import ast
import json
import linecache
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The setup cell is for Colab; a cell tagged `recorded` shows a recording, perhaps the one to be made.
LEFT_OUT = ("setup-colab", "recorded")


@dataclass(frozen=True)
class Cell:
    """A code cell: its name in tracebacks, its tags, its source."""

    name: str
    tags: tuple[str, ...]
    source: str

    @property
    def tree(self) -> ast.Module:
        """The parsed source."""
        return ast.parse(self.source, filename=self.name)


def code_cells(path: Path) -> list[Cell]:
    """Return the code cells of a notebook that a script runs, in order."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    found = [
        Cell(
            f"<{path.stem}, cell {cell.get('id', number)}>",
            tuple(cell["metadata"].get("tags", ())),
            "".join(cell["source"]),
        )
        for number, cell in enumerate(cells)
        if cell["cell_type"] == "code"
    ]
    return [cell for cell in found if not set(cell.tags) & set(LEFT_OUT)]


def parameters(cells: list[Cell]) -> list[str]:
    """Return the names that the cell tagged ``parameters`` assigns."""
    statements = [s for cell in cells if "parameters" in cell.tags for s in cell.tree.body]
    targets = [t for s in statements if isinstance(s, ast.Assign) for t in s.targets]
    targets += [s.target for s in statements if isinstance(s, ast.AnnAssign)]
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def calls(cells: list[Cell], function: str) -> bool:
    """Say whether some cell calls a function by that name."""
    nodes = (node for cell in cells for node in ast.walk(cell.tree) if isinstance(node, ast.Call))
    return any(isinstance(node.func, ast.Name) and node.func.id == function for node in nodes)


def run(
    cells: list[Cell],
    overrides: Mapping[str, Any] | None = None,
    before: Callable[[Cell], None] = lambda cell: None,
) -> dict[str, Any]:
    """Run cells in one namespace and return it; after the parameters, set those that are overridden.

    `before` is called with each cell before it runs.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with closing_figures():
        for cell in cells:
            before(cell)
            _remember(cell)
            exec(compile(cell.source, cell.name, "exec"), namespace)
            if "parameters" in cell.tags:
                namespace.update(overrides or {})
    return namespace


@contextmanager
def closing_figures() -> Iterator[None]:
    """Let ``plt.show()`` close all figures instead of showing them."""
    os.environ["MPLBACKEND"] = "agg"
    import matplotlib.pyplot as plt

    shown = plt.show
    plt.switch_backend("agg")
    plt.show = lambda *args, **options: plt.close("all")
    try:
        yield
    finally:
        plt.show = shown
        plt.close("all")


def _remember(cell: Cell) -> None:
    # So that a traceback shows the line and not only its number.
    lines = cell.source.splitlines(keepends=True)
    linecache.cache[cell.name] = (len(cell.source), None, lines, cell.name)


if __name__ == "__main__":
    run(code_cells(Path(sys.argv[1])))

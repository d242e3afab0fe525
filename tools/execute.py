"""Run lectures and store their outputs: the same bytes each time.

    python -m tools.execute 3_what_sgd_does      (or a path, several of them, or: all)

A lecture whose cell fails is left as it was.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from tools import ROOT, find, notebooks
from tools.kernels import kernel_environment

_VOLATILE = ("ExecuteTime", "collapsed", "execution", "papermill", "scrolled")
_KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(path: Path, timeout: float = 600) -> None:
    """Run a notebook in its own folder and replace the file by the notebook with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env=kernel_environment())
    _strip(notebook)
    nbformat.validate(notebook)
    _replace(path, nbformat.writes(notebook) + "\n")


def _strip(notebook: nbformat.NotebookNode) -> None:
    for cell in notebook.cells:
        for key in _VOLATILE:
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _with_palette(output.data["image/png"])
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    notebook.metadata["kernelspec"] = dict(_KERNELSPEC)
    notebook.metadata["language_info"] = {"name": "python"}


def _with_palette(png: str) -> str:
    """Store a figure with 256 colours: a third of the bytes, and no difference that an eye can see."""
    picture = io.BytesIO()
    figure = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    figure.quantize(256, dither=Image.Dither.NONE).save(picture, "png", optimize=True)
    return min(png, base64.b64encode(picture.getvalue()).decode(), key=len)


def _replace(path: Path, text: str) -> None:
    # Beside the old file and then renamed: an interruption leaves the old one whole.
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the lectures that the command line names."""
    parser = argparse.ArgumentParser(prog="make execute LECTURE=", description=__doc__.splitlines()[0])
    parser.add_argument("lecture", nargs="*", help="path or short name of a lecture, or: all")
    known = notebooks()
    for name in (wanted := parser.parse_args(arguments).lecture):
        if not find(name, known):
            return _unknown(f"no lecture is called {name!r}", known)
    if not wanted:
        return _unknown("which lecture?", known)
    for path in (path for name in wanted for path in find(name, known)):
        start = time.perf_counter()
        try:
            execute(path)
        except CellExecutionError as error:
            print(error, file=sys.stderr)
            print(f"{path}: a cell failed; the file is as it was", file=sys.stderr)
            return 1
        print(f"{path}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 1e6:.2f} MB")
    return 0


def _unknown(problem: str, known: list[Path]) -> int:
    print(f"{problem}; there are:", *(p.relative_to(ROOT) for p in known), sep="\n  ", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

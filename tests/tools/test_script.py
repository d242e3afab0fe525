"""A lecture's cells run as a plain script."""

import json
import subprocess
import sys
import traceback

import pytest

from tools import ROOT, notebooks, script


def write(path, *cells):
    """A notebook of code cells, each a source or a pair of tag and source."""
    pairs = [cell if isinstance(cell, tuple) else (None, cell) for cell in cells]
    made = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {"tags": [tag]} if tag else {}, "source": [source]}
        for i, (tag, source) in enumerate(pairs)
    ]
    made.insert(0, {"cell_type": "markdown", "id": "text", "metadata": {}, "source": ["no code"]})
    path.write_text(json.dumps({"cells": made}))
    return path


def cells(tmp_path, *sources):
    return script.code_cells(write(tmp_path / "1_first.ipynb", *sources))


def test_cells_run_in_order_in_one_namespace(tmp_path):
    assert script.run(cells(tmp_path, "a = 1", "def f(): return a", "b = f() + 1"))["b"] == 2


def test_what_a_script_cannot_run_is_left_out(tmp_path):
    found = cells(tmp_path, ("setup-colab", "%pip install x"), ("recorded", "recorded('x')"), "a = 1")
    assert [cell.source for cell in found] == ["a = 1"]


def test_parameters_are_overridden_after_their_cell(tmp_path):
    found = cells(tmp_path, ("parameters", "N = 3\nM: int = N\nA, B = 1, 2"), "seen = N, M")
    assert script.parameters(found) == ["N", "A", "B", "M"]
    assert script.run(found, {"N": 5})["seen"] == (5, 3)


def test_a_call_is_found_where_it_is_and_nowhere_else(tmp_path):
    assert script.calls(cells(tmp_path, "for i in range(2):\n    record('a', i)"), "record")
    assert not script.calls(cells(tmp_path, "# record(1)\nrecord = 'record(1)'"), "record")


def test_figures_are_closed_and_never_shown(tmp_path):
    source = "import matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()\nleft = plt.get_fignums()"
    assert script.run(cells(tmp_path, source))["left"] == []


def test_a_failing_cell_is_named_and_its_line_shown(tmp_path):
    with pytest.raises(ZeroDivisionError) as caught:
        script.run(cells(tmp_path, "a = 0\nb = 1 / a"))
    text = "".join(traceback.format_exception(caught.value))
    assert "<1_first, cell c0>" in text and "b = 1 / a" in text


def test_classes_can_be_defined_in_a_cell(tmp_path):
    source = "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1\nx = P().x"
    assert script.run(cells(tmp_path, source))["x"] == 1


def test_a_script_needs_no_jupyter(tmp_path):
    """The modules that a recording loads before the lecture's own are free of Jupyter's packages."""
    write(tmp_path / "1_first.ipynb", "import overparam_lib.notebook")
    ask = (
        "import sys; from pathlib import Path; from tools import record, script; "
        "script.run(script.code_cells(Path(sys.argv[1]))); "
        "unwanted = ('nbformat', 'nbclient', 'IPython', 'ipykernel', 'jsonschema'); "
        "print([m for m in unwanted if m in sys.modules])"
    )
    command = [sys.executable, "-c", ask, str(tmp_path / "1_first.ipynb")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_every_lecture_can_be_parsed_and_has_parameters(path):
    found = script.code_cells(path)
    assert script.parameters(found)
    assert all(cell.tree.body for cell in found)

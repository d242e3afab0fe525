"""`make execute` stores the same bytes each time, and leaves a failing lecture as it was."""

import base64
import io
import json

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from tools import execute

DRAWING = """import matplotlib.pyplot as plt
print("drawn")
print("in one stream")
plt.plot([1, 2])
plt.show()"""
ENVIRONMENT = """import os
print({k: os.environ.get(k) for k in ("OMP_NUM_THREADS", "OVERPARAM_PROFILE", "MPLBACKEND", "TQDM_DISABLE")})
print(hash("the same in each run"))"""


def write(path, *sources):
    cells = [new_markdown_cell("# Title", id="title")]
    cells += [new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
    cells[1].metadata["execution"] = {"iopub.status.busy": "some day"}
    notebook = new_notebook(cells=cells, metadata={"description": "kept", "papermill": {"start": "now"}})
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("lecture") / "1_first.ipynb", DRAWING, ENVIRONMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "agg")
        patch.setenv("OMP_NUM_THREADS", "7")
        execute.execute(path)
        first = path.read_bytes()
        execute.execute(path)
    return first, path


def test_repeated_runs_store_the_same_bytes(executed):
    first, path = executed
    assert path.read_bytes() == first


def test_outputs_are_stored(executed):
    cells = json.loads(executed[0])["cells"]
    stream, figure = cells[1]["outputs"]
    assert "".join(stream["text"]) == "drawn\nin one stream\n"
    assert figure["data"]["image/png"]
    assert [cell["execution_count"] for cell in cells[1:]] == [1, 2]


def test_the_kernel_has_its_own_settings(executed):
    printed = "".join(json.loads(executed[0])["cells"][2]["outputs"][0]["text"])
    assert "'OMP_NUM_THREADS': '1'" in printed
    assert "'OVERPARAM_PROFILE': 'cpu'" in printed
    assert "agg" not in printed


def test_metadata_hold_nothing_volatile(executed):
    notebook = json.loads(executed[0])
    assert notebook["metadata"] == {
        "description": "kept",
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert [cell["metadata"] for cell in notebook["cells"]] == [{}, {}, {}]


def test_stored_figures_have_a_palette_and_look_the_same():
    shades = np.linspace(0, 255, 300).astype(np.uint8)
    original = np.stack([np.tile(shades, (200, 1)), np.full((200, 300), 30, np.uint8)] * 2, axis=-1)
    original[..., 3] = 255
    plain = io.BytesIO()
    Image.fromarray(original).save(plain, "png", compress_level=0)
    png = base64.b64encode(plain.getvalue()).decode()
    stored = execute._with_palette(png)
    figure = Image.open(io.BytesIO(base64.b64decode(stored)))
    assert figure.mode == "P" and figure.size == (300, 200)
    assert len(stored) < len(png) / 3
    assert np.abs(np.asarray(figure.convert("RGB"), int) - original[..., :3]).max() <= 4


def test_a_failing_lecture_is_left_alone(tmp_path, capsys):
    path = write(tmp_path / "1_first.ipynb", "print('new')", "raise RuntimeError('no such luck')")
    before = path.read_bytes()
    assert execute.main([str(path)]) == 1
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert "no such luck" in capsys.readouterr().err


def test_a_lecture_is_found_by_name(tmp_path):
    known = [tmp_path / "2_here" / "3_what_it_does.ipynb", tmp_path / "4_there" / "1_what.ipynb"]
    assert execute.find("3_what_it_does", known) == known[:1]
    assert execute.find("what_it_does", known) == known[:1]
    assert execute.find("3_what_it_does.ipynb", known) == known[:1]
    assert execute.find("all", known) == known
    assert execute.find("does", known) == known[:1]
    assert execute.find("oes", known) == []


def test_an_unknown_lecture_is_refused(capsys):
    assert execute.main(["no_such_lecture"]) == 2
    assert "no lecture is called 'no_such_lecture'" in capsys.readouterr().err
    assert execute.main([]) == 2

"""The first cells of each lecture's twin, as on Colab: the library comes from what ``LIBRARY`` names.

Without network: a stub stands for Colab's own package, a wheel of this checkout for the published one, and an
environment that has all but the library for Colab's machine.
"""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import nbformat
import pytest

from tools import ROOT, notebooks
from tools.plain import Book, Lecture
from tools.twins import _name_library


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *build], check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture
def machine(tmp_path):
    """Colab's Python: pip, all packages that the library needs, a package ``google.colab``, no library."""
    venv.create(tmp_path / "env", with_pip=False)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not path.name.lower().startswith(("overparam", "_overparam", "_editable", "__editable__")):
            (borrowed / path.name).symlink_to(path)
    (site / "borrowed.pth").write_text(f"{borrowed}\n", "utf-8")
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").touch()
    return tmp_path / "env" / "bin" / "python"


def run(python, code, folder, colab=True):
    start = "import google.colab\n" if colab else ""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return subprocess.run(
        [str(python), "-c", start + code], cwd=folder, env=environment, capture_output=True, text=True
    )


def setup_cell(path, library):
    notebook = nbformat.read(path, 4)
    _name_library(Lecture(Book({}, {}), path.stem), notebook, library)
    return next(c.source for c in notebook.cells if "setup-colab" in c.metadata.get("tags", ()))


_IMPORT = "\nimport overparam_lib\nprint(overparam_lib.__file__)"


def test_on_colab_the_first_cell_installs_the_library(machine, wheel, tmp_path):
    missing = run(machine, _IMPORT, tmp_path)
    assert "No module named 'overparam_lib'" in missing.stderr
    done = run(machine, setup_cell(notebooks()[0], str(wheel)) + _IMPORT, tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "env") in done.stdout


def test_a_library_that_cannot_be_had_stops_the_first_cell(machine, tmp_path):
    lost = run(machine, setup_cell(notebooks()[0], str(tmp_path / "lost.whl")), tmp_path)
    assert lost.returncode != 0 and "CalledProcessError" in lost.stderr


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_the_first_cells_of_every_lecture_run_there(machine, wheel, tmp_path, path):
    cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"][1:3]
    code = "\n".join([setup_cell(path, str(wheel)), *cells, _IMPORT])
    done = run(machine, code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "env") in done.stdout


def test_elsewhere_the_cell_does_nothing(machine, tmp_path):
    done = run(machine, setup_cell(notebooks()[0], "no-such-file.whl"), tmp_path, colab=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

"""The wheel holds the library and the data that travel with it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what the wheel would install."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        ROOT,
    ]
    subprocess.run(list(map(str, build)), check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def ask(folder, expression):
    command = [sys.executable, "-c", f"import overparam_lib.runtime as r; print({expression})"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return Path(done.stdout.strip())


def test_an_installed_library_finds_its_data(installed):
    found = ask(installed, "r.data_folder()")
    assert found == installed / "overparam_lib" / "_data"
    assert (found / "README.md").is_file()


def test_a_checkout_uses_its_own_data():
    assert ask(ROOT, "r.data_folder()") == ROOT / "data"


def test_the_wheel_has_every_module_and_nothing_else(installed):
    packaged = {p.relative_to(installed).as_posix() for p in installed.rglob("*.py")}
    assert packaged == {p.relative_to(ROOT).as_posix() for p in (ROOT / "overparam_lib").rglob("*.py")}


def test_the_wheel_says_that_it_has_types_and_under_which_license(installed):
    assert (installed / "overparam_lib" / "py.typed").is_file()
    (information,) = installed.glob("*.dist-info")
    assert "License-Expression: BSD-3-Clause\n" in (information / "METADATA").read_text("utf-8")
    assert (information / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_has_the_recordings_and_their_schema(installed):
    packaged = installed / "overparam_lib" / "_data" / "recorded"
    ours = {path.name for path in (ROOT / "data" / "recorded").glob("*.json")}
    assert {path.name for path in packaged.glob("*.json")} == ours
    assert (packaged / "schema.json").is_file()

"""The `overparam` command: what it prints, where, and its exit status."""

import hashlib
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import tomllib

from overparam_lib import __main__, __version__
from overparam_lib.datasets import files

CONTENTS = {
    "mnist/a.gz": b"one file",
    "mnist/b.gz": b"and another",
    "fashion_mnist/a.gz": b"a third",
    "cifar10/data_batch_1.bin": b"a fourth",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of data, a registry of four small files, and a server that has them."""
    (tmp_path / "library").mkdir()
    lines = [
        f"{name} {hashlib.sha256(content).hexdigest()} {len(content)} http://example.invalid/{name}\n"
        for name, content in CONTENTS.items()
    ]
    (tmp_path / "library" / "registry.txt").write_text("".join(lines))
    monkeypatch.setattr(files, "data_folder", lambda: tmp_path / "library")
    monkeypatch.setattr(files, "_download", lambda file, wanted, folder: CONTENTS[file.name])
    monkeypatch.setenv("OVERPARAM_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def run(capsys, *arguments):
    """Exit status, output and errors of the command."""
    try:
        status = __main__.main(arguments)
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def refuse(file, wanted, folder):
    raise files.problem(wanted.name, "the server is on fire")


def test_list_shows_every_data_set_and_what_is_there(folder, capsys):
    files.fetch("mnist/a.gz")
    files.fetch("fashion_mnist/a.gz")
    status, out, err = run(capsys, "data", "list")
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert (status, err) == (0, "")
    assert rows["digits"].endswith("comes with scikit-learn")
    assert "60000 + 10000" in rows["mnist"] and "1 x 28 x 28" in rows["mnist"]
    assert rows["mnist"].endswith("1 files verified, 1 files missing")
    assert rows["fashion_mnist"].endswith("  verified") and rows["cifar10"].endswith("  no")
    assert rows["folder:"] == f"folder: {folder}"
    (folder / "fashion_mnist/a.gz").write_bytes(b"wrong")
    assert "fashion_mnist  60000 + 10000  1 x 28 x 28  0.0  corrupt" in run(capsys, "data", "list")[1]


def test_fetch_downloads_and_verify_agrees(folder, capsys):
    status, out, err = run(capsys, "data", "fetch", "mnist", "digits", "mnist")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"verified  {folder / 'mnist/a.gz'}",
        f"verified  {folder / 'mnist/b.gz'}",
        "digits comes with scikit-learn: nothing to fetch",
    ]
    assert (folder / "mnist/b.gz").read_bytes() == b"and another"
    status, out, err = run(capsys, "data", "verify", "mnist", "digits")
    assert (status, out, err) == (0, "verified  mnist/a.gz\nverified  mnist/b.gz\n", "")


def test_fetch_all_to_another_folder(folder, capsys, tmp_path):
    status, out, err = run(capsys, "data", "fetch", "all", "--to", str(tmp_path / "elsewhere"))
    assert (status, err) == (0, "") and not folder.exists()
    for name, content in CONTENTS.items():
        assert (tmp_path / "elsewhere" / name).read_bytes() == content
    assert out.splitlines()[-1].endswith(f"export OVERPARAM_DATA={tmp_path / 'elsewhere'}")


def test_a_fetch_that_fails_is_named_and_the_next_data_set_is_tried(folder, capsys, monkeypatch):
    def download(file, wanted, folder):
        return CONTENTS[file.name] if file.name.startswith("fashion") else refuse(file, wanted, folder)

    monkeypatch.setattr(files, "_download", download)
    status, out, err = run(capsys, "data", "fetch", "mnist", "fashion_mnist")
    assert status == 1
    assert err.startswith("overparam: mnist/a.gz: the server is on fire\n") and "b.gz" not in err
    assert out == f"verified  {folder / 'fashion_mnist/a.gz'}\n"


def test_verify_names_what_is_missing_and_what_is_corrupt(folder, capsys):
    files.fetch("mnist/a.gz")
    (folder / "mnist/b.gz").write_bytes(b"and an other")
    status, out, err = run(capsys, "data", "verify", "mnist", "cifar10")
    assert status == 1
    assert out.splitlines() == [
        "verified  mnist/a.gz",
        "corrupt   mnist/b.gz",
        "missing   cifar10/data_batch_1.bin",
    ]
    assert f"in {folder}: mnist/b.gz is corrupt, cifar10/data_batch_1.bin is missing\n" in err
    assert "`overparam data fetch NAME`" in err and "fashion" not in err
    assert run(capsys, "data", "verify")[0] == 1  # all of them
    assert run(capsys, "data", "fetch", "all")[0] == 0
    assert run(capsys, "data", "verify")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [(), ("data",), ("data", "fetch"), ("data", "fetch", "imagenet"), ("data", "verify", "all"), ("date",)],
    ids=" ".join,
)
def test_what_is_not_understood_ends_with_two_and_the_usage(capsys, arguments):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "") and err.startswith("usage: overparam")


def test_an_unknown_name_is_answered_with_the_known_ones(capsys):
    err = run(capsys, "data", "fetch", "imagenet")[2]
    assert "there is no data set 'imagenet'; there are digits, mnist, fashion_mnist, cifar10" in err


def test_help_and_version(capsys):
    assert run(capsys, "--version")[:2] == (0, f"overparam_lib {__version__}\n")
    status, out, _ = run(capsys, "data", "--help")
    assert status == 0 and "OVERPARAM_DATA" in out and all(w in out for w in ("list", "fetch", "verify"))


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "overparam: interrupted\n"),
        (files.DataError("the disk is gone"), 1, "overparam: the disk is gone\n"),
    ],
)
def test_an_expected_end_shows_no_traceback(folder, capsys, monkeypatch, raised, status, message):
    def stop(*_, **__):
        raise raised

    monkeypatch.setattr(files, "state", stop)
    assert run(capsys, "data", "verify") == (status, "", message)


def test_as_a_module_with_nobody_reading():
    """`overparam data list | true`: the answer goes nowhere, without a traceback."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "overparam_lib", "data", "list"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_command_is_installed_under_its_name():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    module, name = project["scripts"]["overparam"].split(":")
    assert getattr(import_module(module), name) is __main__.main

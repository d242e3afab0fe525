"""What Binder installs: the lock's versions of what a lecture needs, on the lock's Python, CPU only."""

import os
import re

from packaging.utils import canonicalize_name

from tools import ROOT, binder

LOCK = (ROOT / "requirements.lock").read_text("utf-8")


def test_the_pins_are_what_the_lock_gives():
    assert binder.REQUIREMENTS.read_text("utf-8") == binder.current(), "run `python -m tools.binder`"


def test_every_pin_is_the_locks():
    lines = binder.REQUIREMENTS.read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith(("#", "--"))]
    assert all(line.replace("+cpu", "") in LOCK.splitlines() for line in pins)
    assert [line for line in pins if "+cpu" in line] == [f"{re.search('^torch==.*', LOCK, re.M)[0]}+cpu"]
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in lines


def test_all_that_the_library_depends_on_is_pinned():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.M | re.S)[1]
    wanted = {canonicalize_name(name) for name in re.findall(r'"([\w-]+)', listed)}
    pinned = binder.REQUIREMENTS.read_text("utf-8")
    assert wanted <= {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", pinned, re.M)}


def test_needed_follows_dependencies_and_leaves_extras():
    found = binder.needed(("seaborn", "not-installed-anywhere"))
    assert {"seaborn", "pandas", "python-dateutil", "not-installed-anywhere"} <= found
    assert "statsmodels" not in found


def test_only_what_is_needed_is_taken():
    text = binder.requirements("# head\nnumpy==2\ntorch==3\nsphinx==1\n", {"numpy", "torch"})
    assert text.endswith("cpu\nnumpy==2\ntorch==3+cpu\n") and "sphinx" not in text


def test_python_is_the_locks():
    named = re.search(r"python(3\.\d+) -m venv", (ROOT / "Makefile").read_text("utf-8"))[1]
    assert (ROOT / "binder" / "runtime.txt").read_text("utf-8") == f"python-{named}\n"


def test_the_library_is_installed_without_its_dependencies():
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK)
    text = script.read_text("utf-8")
    assert text.startswith("#!/usr/bin/env bash\n") and "set -e" in text
    assert "pip install --no-deps --no-cache-dir .\n" in text

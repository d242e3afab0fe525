"""Under the plugin a skipped test is a failed one, unless it needs a GPU."""

import os
import subprocess
import sys

from tools import ROOT

TESTS = """
import pytest

def test_passes():
    pass

def test_skips():
    pytest.skip("no such thing here")

@pytest.mark.skip(reason="not today")
def test_is_marked():
    pass

@pytest.mark.gpu
@pytest.mark.skip(reason="needs a device")
def test_on_gpu():
    pass

@pytest.mark.xfail(strict=True)
def test_known():
    assert False
"""


def run(folder, *options):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(folder)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_skips_fail_under_the_plugin(tmp_path):
    (tmp_path / "test_example.py").write_text(TESTS)
    done = run(tmp_path, "-p", "tools.no_skips")
    assert done.returncode == 1
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed" in done.stdout
    assert "1 error" in done.stdout  # a mark skips before the test starts
    assert "nothing may be skipped here: Skipped: no such thing here" in done.stdout
    assert "nothing may be skipped here: Skipped: not today" in done.stdout


def test_skips_are_skips_without_it(tmp_path):
    (tmp_path / "test_example.py").write_text(TESTS)
    done = run(tmp_path)
    assert done.returncode == 0
    assert "1 passed, 3 skipped, 1 xfailed" in done.stdout


def test_a_skipped_module_fails_under_the_plugin(tmp_path):
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module_at_all')")
    assert run(tmp_path, "-p", "tools.no_skips").returncode != 0

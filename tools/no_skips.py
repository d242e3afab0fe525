"""A pytest plugin under which a skipped test is a failed one, tests marked ``gpu`` aside.

On a fresh machine nothing may be left out silently: ``python -m tools.check`` loads it where
``OVERPARAM_NO_SKIPS`` is set.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """Fail a test that was skipped."""
    report = (yield).get_result()
    # An expected failure is reported as skipped too.
    if report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("gpu") is None:
        _fail(report)


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report():
    """Fail a module that was skipped while it was imported."""
    report = (yield).get_result()
    if report.skipped:
        _fail(report)


def _fail(report) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"nothing may be skipped here: {reason}"

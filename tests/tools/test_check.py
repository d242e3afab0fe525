"""The driver of the checks: what fails, what is missing, what takes too long."""

import sys

import pytest

from tools import check


def part(*commands, budget=1.0, needs=(), program=""):
    def listed():
        """Nothing but a test."""
        for source in commands:
            yield [sys.executable, "-c", source], {}

    return check.Part("example", budget, needs, listed, program)


def test_a_part_passes():
    assert check.run(part("pass", "pass")).verdict == "passed"


def test_a_part_stops_at_its_first_failure(tmp_path):
    trace = tmp_path / "trace"
    outcome = check.run(part("raise SystemExit(3)", f"open({str(trace)!r}, 'w')"))
    assert outcome.verdict.startswith("failed: python") and outcome.verdict.endswith("exited with 3")
    assert not trace.exists()


def test_what_is_missing_is_named():
    outcome = check.run(part("pass", needs=("pytest", "no_such_module")))
    assert outcome.verdict == "missing: no_such_module (make env)"


def test_a_missing_program_is_named(monkeypatch):
    needy = part("pass", program="no-such-program")
    assert check.run(needy).verdict == "missing: no-such-program (apt install no-such-program)"
    monkeypatch.setenv("NO-SUCH-PROGRAM", sys.executable)
    assert check.run(needy).verdict == "passed"


def test_the_browser_part_builds_the_site_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(check, "SITE", tmp_path)
    build, tests = check.browser()
    assert "build" in build[0] and tests[0][-1] == "tests/browser"
    (tmp_path / "intro.html").touch()
    assert [command for command, _ in check.browser()] == [tests[0]]


def test_a_folder_with_a_part_is_not_tested_twice():
    (command, _), *_ = check.unit()
    assert {"--ignore=tests/site", "--ignore=tests/browser"} <= set(command)


def test_a_part_over_its_budget_fails():
    assert check.run(part("pass", budget=0.0)).verdict == "over budget"


def test_the_table_shows_minutes_and_budget():
    outcomes = [check.Outcome(part(budget=8), 2.25), check.Outcome(part(budget=1), 3.0)]
    assert check.table(outcomes).splitlines() == [
        "part       minutes  budget",
        "example        2.2       8  passed",
        "example        3.0       1  over budget",
        "all            5.2       9",
    ]


@pytest.mark.parametrize("name", ["assignments"])
def test_parts_to_come_are_not_passed_over(name, capsys):
    assert check.main(name) == 2
    assert "does not exist yet" in capsys.readouterr().out


def test_an_unknown_part_is_refused(capsys):
    assert check.main("untit") == 2
    assert "there is no PART=untit" in capsys.readouterr().out


def test_all_parts_run_and_one_failure_fails_all(monkeypatch, capsys):
    monkeypatch.setattr(check, "notebooks", lambda: ["a lecture"])
    monkeypatch.setattr(check, "PARTS", {"a": part("raise SystemExit(1)"), "b": part("pass")})
    assert check.main() == 1
    printed = capsys.readouterr().out
    assert "failed: example" in printed and "passed" in printed


def test_a_book_without_lectures_is_not_passed(monkeypatch, capsys):
    monkeypatch.setattr(check, "notebooks", list)
    assert check.main("unit") == 1
    assert "no lecture" in capsys.readouterr().out


def test_budgets_leave_room_for_the_parts_to_come():
    assert sum(part.budget for part in check.PARTS.values()) <= 48


def test_figures_stay_in_the_outputs_that_nbval_compares(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    (_, environment), _ = check.nbval()
    assert "MPLBACKEND" not in environment
    assert environment["OMP_NUM_THREADS"] == "1"


def test_the_portable_pass_asks_for_an_older_processor():
    (command, environment), (compare, _) = check.portable()
    assert environment["ATEN_CPU_CAPABILITY"] == "default"
    assert environment["OPENBLAS_CORETYPE"] == "Haswell"
    assert "--nbval" in command
    assert environment["OVERPARAM_CLAIM_LOG"] == compare[-1]

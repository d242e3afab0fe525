"""The benchmarks run, and say what they measured. How fast anything is, no test asserts."""

import itertools
import json

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import gram_gauss_newton, lectures, training
from benchmarks.row import Row, ratios, table


def test_a_quick_run_prints_a_table_and_writes_the_machine(tmp_path, capsys):
    assert bench.main(["training", "--quick", "--to", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    assert content["quick"] and content["machine"]["cores"] >= 1 and content["versions"]["torch"]
    assert [row["unit"] for row in content["rows"]] == ["ratio"] * 3
    for row in content["rows"]:
        assert row["name"] in printed and row["median"] > 0 and len(row["samples"]) == 2
    assert "threads" in printed and str(path) in printed


def test_both_loops_train_alike():
    """Else their times could not be compared."""
    problem = training.Problem(8, 4, 5, 20)
    hand, ours = problem.start(), problem.start()
    losses = training.by_hand(*hand, 5)
    history = training.by_train(*ours, 5, probes=problem.lecture_probes())
    assert losses == history.losses
    assert (hand[0].hidden_weight == ours[0].hidden_weight).all()
    assert (hand[0].hidden_weight != problem.start()[0].hidden_weight).any()


def test_each_block_of_steps_has_one_measurement():
    problem = training.Problem(8, 4, 20, 20)
    probes = problem.few_probes()
    measured = []
    for probe in probes:
        measure = probe.measure
        probe.measure = lambda model, measure=measure: measured.append(1) or measure(model)
    training.a_step(problem, probes, block=20, pairs=3)
    assert len(measured) == len(probes) * (1 + 4)  # the start, and after each of the four blocks


def test_pairs_run_in_turns_in_changing_order_and_the_first_does_not_count():
    order, clock = [], itertools.count(1)

    def timed(name):
        return lambda: order.append(name) or next(clock)

    found = ratios(timed("by hand"), timed("train"), pairs=2)
    assert order == ["train", "by hand", "by hand", "train", "train", "by hand"]
    assert found == [4 / 3, 5 / 6]


def test_the_table_says_whether_a_target_is_met():
    rows = [Row("a", "", "ratio", [1.0, 1.2, 1.1], 1.15), Row("b", "", "s", [3.0], 2.0)]
    rows.append(Row("c", "", "s", [1]))
    assert table(rows).splitlines() == [
        "     median      min      max",
        "a       1.1        1      1.2  ratio   target 1.15: met",
        "b         3        3        3  s       target 2: MISSED",
        "c         1        1        1  s",
    ]


def lecture(tmp_path, source):
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": source}
    (tmp_path / "1_first.ipynb").write_text(json.dumps({"cells": [cell]}))
    return tmp_path / "1_first.ipynb"


def test_a_lecture_is_measured_in_its_own_process(tmp_path):
    source = "import os\nassert os.environ['OMP_NUM_THREADS'] == '2'\nx = bytearray(200_000_000)"
    seconds, memory = lectures.measure(lecture(tmp_path, source))
    assert (seconds.unit, memory.unit) == ("s", "GB")
    assert 0 < seconds.value and 0.2 < memory.value < 1


def test_a_failing_lecture_is_named(tmp_path):
    with pytest.raises(RuntimeError, match="1_first.*failed(.|\n)*ZeroDivisionError"):
        lectures.measure(lecture(tmp_path, "1 / 0"))


def test_an_unknown_group_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["speed"])
    assert "there is no group speed" in capsys.readouterr().err


@pytest.fixture
def without_peers(monkeypatch):
    monkeypatch.setattr(gram_gauss_newton, "find_spec", lambda name: None)


@pytest.mark.slow
def test_gram_gauss_newton_is_measured(without_peers, capsys):
    rows = gram_gauss_newton.rows(quick=True)
    assert "SINGD" in capsys.readouterr().out  # left out, and said so
    steps, memory, training = rows[:6], rows[6:8], rows[8:]
    assert [row.target for row in steps] == [1.25, 1.1, 2.0, None, None, None]
    assert all(row.unit == "ratio" and row.value > 0 for row in steps)
    assert [row.unit for row in memory] == ["MB", "MB"] and all(row.value > 0 for row in memory)
    assert [row.name.split(":")[0] for row in training[:12]] == ["search"] * 8 + ["best"] * 4
    assert [row.unit for row in training[12:]] == ["ratio"] * 3
    rates = [row.name.split("rate ")[1] for row in training[:8]]
    assert rates == ["0.1", "0.2"] * 4  # the same search for each


def test_a_run_ends_at_its_target_or_when_it_diverges():
    problem = gram_gauss_newton.Regression(128, (64,))
    reached = problem.run(gram_gauss_newton._ours, 1.0, 60)
    assert reached.reached and len(reached.losses) < 60 and reached.seconds > 0
    assert all(loss > gram_gauss_newton.TARGET for loss in reached.losses[:-1])
    wild = problem.run(gram_gauss_newton._sgd, 2.0, 60)
    assert not wild.reached and len(wild.losses) < 60
    assert gram_gauss_newton._rank(reached) < gram_gauss_newton._rank(wild)


def test_both_sides_of_a_step_have_the_same_network_and_batch():
    for problem in (gram_gauss_newton.Problem.mlp(4, 8, 2), gram_gauss_newton.Problem.residual(4, 5, 2, 1)):
        one, two = problem.start(), problem.start()
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
        assert one(problem.x).shape == problem.y.shape
        problem.sgd_step()()
        problem.our_step()()

"""The report that every theory calculator returns."""

import copy
import dataclasses
import math
import pickle

import pytest

from overparam_lib.theory import Assumption, BoundReport

ASSUMPTIONS = (Assumption("unit norm", True, "norms 1 to 1"), Assumption("wide", False, "3 against 5"))


@pytest.mark.parametrize(
    ("kind", "trivial", "value", "vacuous"),
    [
        ("upper", 1.0, 0.99, False),
        ("upper", 1.0, 1.0, True),
        ("upper", 1.0, math.inf, True),
        ("lower", 0.0, 0.01, False),
        ("lower", 0.0, 0.0, True),
        ("lower", 0.0, -3.0, True),
        ("upper", None, 1e300, False),
        ("lower", None, -1.0, False),
    ],
)
def test_a_bound_is_vacuous_from_the_trivial_value_on(kind, trivial, value, vacuous):
    assert BoundReport("bound", value, kind=kind, trivial=trivial).vacuous is vacuous


def test_it_holds_if_all_its_assumptions_do():
    assert BoundReport("bound", 1.0).holds
    assert BoundReport("bound", 1.0, assumptions=ASSUMPTIONS[:1]).holds
    assert not BoundReport("bound", 1.0, assumptions=ASSUMPTIONS).holds


def test_its_text_has_a_line_for_everything():
    report = BoundReport("Error", 2.5, {"first": 1.0, "second": 1.5}, ASSUMPTIONS, "Theorem 7", trivial=1.0)
    assert str(report).splitlines() == [
        "Error: at most 2.5 (vacuous: from 1 on it says nothing)",
        "  first: 1",
        "  second: 1.5",
        "  unit norm: holds (norms 1 to 1)",
        "  wide: VIOLATED (3 against 5)",
        "  Theorem 7",
    ]
    assert str(BoundReport("Width", 10**40, kind="lower")) == "Width: at least 1e+40"
    vacuous = BoundReport("Gain", -1, kind="lower", trivial=0.0)
    assert str(vacuous) == "Gain: at least -1 (vacuous: from 0 down it says nothing)"
    assert str(BoundReport("b", 1, assumptions=(Assumption("unit norm", True),))).endswith("unit norm: holds")


def test_it_cannot_be_changed_and_can_be_copied():
    terms = {"a": 1.0}
    report = BoundReport("bound", 1.0, terms, list(ASSUMPTIONS))
    terms["a"] = 2.0
    assert report.terms == {"a": 1.0} and report.assumptions == ASSUMPTIONS
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.value = 3.0
    assert copy.deepcopy(report) == report == pickle.loads(pickle.dumps(report))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": math.nan}, "value of 'bound' is NaN"),
        ({"value": 1.0, "terms": {"a": math.nan}}, "a of 'bound' is NaN"),
        ({"value": 1.0, "kind": "both"}, "kind must be 'upper' or 'lower', got 'both'"),
    ],
)
def test_what_is_no_bound_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BoundReport("bound", **arguments)

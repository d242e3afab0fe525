"""A new run's claims are compared with the stored ones."""

import json

import pytest

from tools import claims

STORED = {
    "id": "demo/half",
    "statement": "Half is below one",
    "source": "arithmetic",
    "measured": [0.5, 0.25],
    "kind": "at_most",
    "bound": 1.0,
    "rtol": 0.0,
    "atol": 0.0,
    "rerun_rtol": 0.01,
    "holds": True,
}


@pytest.fixture
def log(tmp_path):
    def write(*made):
        path = tmp_path / "claims.jsonl"
        path.write_text("".join(json.dumps(claim) + "\n" for claim in made))
        return path

    return write


def test_the_same_claims_agree(log):
    assert claims.differences(log(STORED), [STORED]) == []


def test_a_run_may_differ_within_the_claims_own_tolerance(log):
    assert claims.differences(log({**STORED, "measured": [0.504, 0.25]}), [STORED]) == []
    assert claims.differences(log({**STORED, "measured": [0.506, 0.25]}), [STORED])


@pytest.mark.parametrize("change", [{"bound": 2.0}, {"statement": "Half is half"}, {"measured": [0.5]}])
def test_a_changed_claim_is_found(log, change):
    assert claims.differences(log({**STORED, **change}), [STORED])


def test_missing_and_further_claims_are_found(log, tmp_path):
    assert claims.differences(log(), [STORED])
    assert claims.differences(tmp_path / "never-written.jsonl", [STORED])
    assert claims.differences(log(STORED, {**STORED, "id": "demo/other"}), [STORED])


def test_the_exit_status_tells(log, monkeypatch, capsys):
    monkeypatch.setattr(claims, "stored_claims", lambda: [STORED])
    assert claims.main(str(log(STORED))) == 0
    assert claims.main(str(log())) == 1
    assert "1 stored, compared with a new run: 1 differences" in capsys.readouterr().out


def test_a_book_without_claims_does_not_pass(log, monkeypatch):
    monkeypatch.setattr(claims, "stored_claims", list)
    assert claims.main(str(log())) == 1

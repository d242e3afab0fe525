"""Every stored lecture passes every check of `tools.hygiene`."""

import json

import pytest

from tools import CHAPTERS, notebooks
from tools.claims import stored_claims
from tools.hygiene import CHECKS, repeated_claims

LECTURES = notebooks()


def test_there_is_a_lecture():
    assert LECTURES


def test_no_notebook_lies_where_no_check_looks():
    assert sorted(CHAPTERS.rglob("*.ipynb")) == LECTURES


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_lecture(path, check):
    faults = check(json.loads(path.read_text("utf-8")))
    assert not faults, "\n".join(faults)


def test_claim_ids_are_unique_in_the_book():
    assert repeated_claims(stored_claims()) == []

"""Each check accepts a good notebook and refuses one with its fault."""

import copy

import pytest

from tools import hygiene

CLAIM = {
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


def code(id, source="1", outputs=(), **metadata):
    return {
        "cell_type": "code",
        "id": id,
        "source": source,
        "outputs": list(outputs),
        "metadata": metadata,
        "execution_count": None,
    }


def shown(**data):
    return {"output_type": "display_data", "data": data, "metadata": {}}


@pytest.fixture
def good():
    card = '<data class="exact" value="0.5">0.5</data>, <data class="exact" value="0.25">0.25</data>'
    claim = shown(
        **{"text/plain": "claim demo/half: holds: Half is below one (at most 1)", "text/html": card}
    )
    claim["metadata"] = {"overparam_lib": {"claim": copy.deepcopy(CLAIM)}}
    alt = "Two curves that fall from one to zero as the width grows"
    cells = [
        {"cell_type": "markdown", "id": "title", "source": "# A title", "metadata": {}},
        code("setup", tags=["setup-colab"]),
        code("parameters", tags=["parameters"]),
        code("machine", outputs=[shown(**{"text/plain": "x"})], tags=["nbval-ignore-output"]),
        code("figure", outputs=[shown(**{"image/png": "AAAA"})], mystnb={"image": {"alt": alt}}),
        code("claim", outputs=[claim]),
    ]
    for count, cell in enumerate(cells[1:], start=1):
        cell["execution_count"] = count
    description = "What a page is about, in a sentence long enough for those who search."
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"name": "python3"},
            "language_info": {"name": "python"},
            "description": description,
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def cell(notebook, id):
    return next(c for c in notebook["cells"] if c["id"] == id)


def claim_of(notebook):
    return cell(notebook, "claim")["outputs"][0]


FAULTS = {
    "a cell was not run": (hygiene.every_cell_ran, lambda n: cell(n, "setup").update(execution_count=None)),
    "a cell was run twice": (hygiene.every_cell_ran, lambda n: cell(n, "claim").update(execution_count=9)),
    "an error is stored": (
        hygiene.no_errors,
        lambda n: cell(n, "setup")["outputs"].append({"output_type": "error", "ename": "ValueError"}),
    ),
    "a warning is stored": (
        hygiene.no_stderr,
        lambda n: cell(n, "setup")["outputs"].append(
            {"output_type": "stream", "name": "stderr", "text": "!"}
        ),
    ),
    "a cell is long": (hygiene.short_cells, lambda n: cell(n, "setup").update(source="1\n" * 21)),
    "a figure has no alt text": (hygiene.alt_texts, lambda n: cell(n, "figure").update(metadata={})),
    "an alt text says nothing": (
        hygiene.alt_texts,
        lambda n: cell(n, "figure")["metadata"]["mystnb"]["image"].update(alt="figure"),
    ),
    "two figures have one alt text": (
        hygiene.alt_texts,
        lambda n: n["cells"].append({**cell(n, "figure"), "id": "another"}),
    ),
    "a cell has two figures": (
        hygiene.alt_text_of_one,
        lambda n: cell(n, "figure")["outputs"].append(shown(**{"image/png": "BBBB"})),
    ),
    "there is no claim": (hygiene.some_claim, lambda n: cell(n, "claim").update(outputs=[])),
    "a figure of a claim was changed": (
        hygiene.honest_claims,
        lambda n: claim_of(n)["metadata"]["overparam_lib"]["claim"].update(measured=[0.5, 0.26]),
    ),
    "a card was changed": (
        hygiene.honest_claims,
        lambda n: claim_of(n)["data"].update({"text/html": '<data class="exact" value="0.5">0.5</data>'}),
    ),
    "a claim's words were changed": (
        hygiene.honest_claims,
        lambda n: claim_of(n)["metadata"]["overparam_lib"]["claim"].update(statement="Half is above one"),
    ),
    "a bound was changed": (
        hygiene.honest_claims,
        lambda n: claim_of(n)["metadata"]["overparam_lib"]["claim"].update(bound=0.4),
    ),
    "a claim failed": (
        hygiene.honest_claims,
        lambda n: claim_of(n)["metadata"]["overparam_lib"]["claim"].update(holds=False),
    ),
    "a claim lost its metadata": (hygiene.claims_are_recorded, lambda n: claim_of(n).update(metadata={})),
    "the file is large": (hygiene.small_file, lambda n: cell(n, "setup").update(source="x" * 1_100_000)),
    "two cells are not compared": (
        hygiene.everything_is_compared,
        lambda n: cell(n, "claim").update(metadata={"tags": ["nbval-ignore-output"]}),
    ),
    "a cell is skipped": (
        hygiene.everything_is_compared,
        lambda n: cell(n, "claim").update(metadata={"tags": ["nbval-skip"]}),
    ),
    "a comment skips a cell": (
        hygiene.everything_is_compared,
        lambda n: cell(n, "claim").update(source="# NBVAL_IGNORE_OUTPUT\n1"),
    ),
    "there is no setup cell": (hygiene.special_cells, lambda n: cell(n, "setup").update(metadata={})),
    "there are two parameter cells": (
        hygiene.special_cells,
        lambda n: cell(n, "claim").update(metadata={"tags": ["parameters"]}),
    ),
    "a cell has no id": (hygiene.cell_ids, lambda n: cell(n, "setup").pop("id")),
    "two cells have one id": (hygiene.cell_ids, lambda n: cell(n, "setup").update(id="claim")),
    "an output names a home folder": (
        hygiene.no_machine_paths,
        lambda n: cell(n, "setup")["outputs"].append(shown(**{"text/plain": "saved to /home/me/x.pt"})),
    ),
    "an output names a temporary folder": (
        hygiene.no_machine_paths,
        lambda n: cell(n, "setup")["outputs"].append(
            {"output_type": "stream", "name": "stdout", "text": ["in '/tmp/ipykernel_7/1.py'\n"]}
        ),
    ),
    "the kernel has another name": (
        hygiene.stable_metadata,
        lambda n: n["metadata"].update(kernelspec={"name": "my-env"}),
    ),
    "a cell keeps its times": (
        hygiene.stable_metadata,
        lambda n: cell(n, "setup").update(metadata={"execution": {"iopub.execute_input": "now"}}),
    ),
    "the page has no description": (hygiene.described, lambda n: n["metadata"].pop("description")),
}


@pytest.mark.parametrize("check", hygiene.CHECKS, ids=lambda check: check.__name__)
def test_a_good_notebook_passes(good, check):
    assert check(good) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(good, fault):
    check, spoil = FAULTS[fault]
    spoil(good)
    assert check(good)


def test_every_check_is_shown_to_fail():
    assert {check for check, _ in FAULTS.values()} == set(hygiene.CHECKS)


def test_a_claim_id_used_twice_is_found():
    assert hygiene.repeated_claims([CLAIM, CLAIM]) == ["2 claims are called demo/half"]
    assert hygiene.repeated_claims([CLAIM]) == []


def test_text_stored_as_lines_reads_as_text(good):
    claim_of(good)["data"] = {key: [text[:9], text[9:]] for key, text in claim_of(good)["data"].items()}
    assert hygiene.honest_claims(good) == []

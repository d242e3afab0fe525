"""Claims, glued numbers and recordings, outside and inside a notebook."""

import json
from concurrent.futures import ThreadPoolExecutor

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from overparam_lib import notebook
from overparam_lib.notebook import ClaimError, claim, claims_in, compare_claims, glue, record, recorded


@pytest.fixture
def shown(monkeypatch):
    """What would be displayed in a notebook: (data, metadata) pairs."""
    displays = []
    monkeypatch.setattr(notebook, "_show", lambda data, metadata: displays.append((data, metadata)))
    monkeypatch.delenv("OVERPARAM_CLAIM_LOG", raising=False)
    return displays


def make(measured, **bound):
    claim("test/it", "It is so", measured=measured, source="nobody", **bound)


@pytest.mark.parametrize(
    ("measured", "bound"),
    [
        (1.0, {"at_most": 1.0}),
        ([0.1, 0.9], {"at_most": 1.0}),
        (np.array([1.0, 3.0]), {"at_least": 1.0}),
        (torch.tensor([0.9, 1.2]), {"expected": 1.0, "atol": 0.1}),
        ([90.0, 100.0], {"expected": 100.0, "rtol": 0.05}),
    ],
)
def test_true_claims_hold(shown, measured, bound):
    make(measured, **bound)
    assert shown[0][1]["overparam_lib"]["claim"]["holds"] is True


@pytest.mark.parametrize(
    ("measured", "bound"),
    [
        (1.0001, {"at_most": 1.0}),
        ([0.1, 1.1], {"at_most": 1.0}),  # a bound must hold for every seed
        ([1.0, 3.0], {"at_least": 1.5}),
        ([0.9, 1.31], {"expected": 1.0, "atol": 0.1}),
        (94.0, {"expected": 100.0, "rtol": 0.05}),
        (1.0, {"expected": 1.0000001}),
    ],
)
def test_false_claims_raise_and_show_nothing(shown, tmp_path, monkeypatch, measured, bound):
    monkeypatch.setenv("OVERPARAM_CLAIM_LOG", str(tmp_path / "log"))
    with pytest.raises(ClaimError, match="test/it.*fails; measured"):
        make(measured, **bound)
    assert not shown and not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("measured", "bound"),
    [
        (1.0, {}),
        (1.0, {"at_most": 2.0, "at_least": 0.0}),
        (float("nan"), {"at_most": 1.0}),
        ([1.0, float("inf")], {"at_least": 0.0}),
        ([], {"at_most": 1.0}),
        (1.0, {"at_most": float("nan")}),
        (1.0, {"expected": 1.0, "atol": float("inf")}),
    ],
)
def test_what_cannot_be_judged_is_refused(shown, measured, bound):
    with pytest.raises(ValueError, match="claim test/it"):
        make(measured, **bound)
    assert not shown


def test_text_holds_no_measured_digit_and_the_card_marks_each(shown):
    make([0.123456789, 0.2], at_most=0.5)
    data, _ = shown[0]
    assert data["text/plain"] == "claim test/it: holds: It is so (at most 0.5)"
    assert '<data class="exact" value="0.123457 0.2">0.123, 0.2</data>' in data["text/html"]
    outside = notebook.re.sub(r"<data class=\"exact\".*?</data>", "", data["text/html"])
    assert "0.12" not in outside and "at most 0.5" in outside


def test_a_card_with_many_figures_shows_their_range_and_keeps_them_all(shown):
    figures = [round(0.1 * i, 1) for i in range(8)]
    make(figures, at_most=1)
    card = shown[0][0]["text/html"]
    assert f'value="{" ".join(map(str, figures))}">8 figures from 0 to 0.7</data>' in card


@pytest.mark.parametrize(
    ("bound", "text"), [(100.0, "100"), (0.123456, "0.12"), (1.0, "1"), (-1234.5, "-1200")]
)
def test_bounds_are_written_with_two_digits_and_no_exponent(shown, bound, text):
    make(bound + 1, at_least=bound)
    assert shown[0][0]["text/plain"].endswith(f"(at least {text})")


def test_statement_is_escaped_and_its_mathematics_typeset(shown):
    claim("test/math", "As $a<b$ & so on", measured=0, at_most=1, source="A & B")
    card = shown[0][0]["text/html"]
    assert r"As \(a&lt;b\) &amp; so on." in card and "A &amp; B" in card


def test_log_holds_whole_lines_from_many_writers(tmp_path, monkeypatch, shown):
    monkeypatch.setenv("OVERPARAM_CLAIM_LOG", str(tmp_path / "log"))
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(lambda i: claim(f"test/{i}", "x" * 500, measured=i, at_least=0, source="s"), range(200))
        )
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == sorted(f"test/{i}" for i in range(200))


def run_notebook(source, tmp_path, monkeypatch):
    monkeypatch.setenv("OVERPARAM_CLAIM_LOG", str(tmp_path / "log"))
    nb = new_notebook(cells=[new_code_cell(source)])
    NotebookClient(nb, kernel_name="python3").execute()
    return nb


def test_in_a_notebook_the_stored_claim_is_the_logged_one(tmp_path, monkeypatch):
    source = (
        "from overparam_lib.notebook import claim, glue\n"
        "claim('test/nb', 'A $x$', measured=[1.0, 2.0], at_most=3, source='s')\n"
        "glue('share', 0.5, '.1%')"
    )
    nb = run_notebook(source, tmp_path, monkeypatch)
    nbformat.write(nb, tmp_path / "n.ipynb")
    stored = claims_in(tmp_path / "n.ipynb")
    logged = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert stored == [logged[0] | {"notebook": str(tmp_path / "n.ipynb"), "cell": 0}]
    assert compare_claims(stored, logged) == []
    assert set(nb.cells[0].outputs[0].data) == {"text/plain", "text/html"}
    assert nb.cells[0].outputs[1].data == {"application/papermill.record/text/plain": "'50.0%'"}


def stored_claim(**changes):
    base = {"id": "a", "statement": "s", "source": "t", "measured": [1.0, -2.0], "kind": "at_most",
            "bound": 3.0, "rtol": 0.0, "atol": 0.0, "rerun_rtol": 0.01, "holds": True}  # fmt: skip
    return base | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measured": [1.0, -2.05]}, "measured"),
        ({"measured": [1.0]}, "measured"),
        ({"bound": 3.2}, "bound"),
        ({"statement": "other"}, "statement was"),
        ({"kind": "at_least"}, "kind was"),
        ({"rerun_rtol": 0.5}, "rerun_rtol was"),
        ({"id": "b"}, "stored 1 times and was made again 0 times"),
    ],
)
def test_compare_reports_each_difference(changes, message):
    differences = compare_claims([stored_claim()], [stored_claim(**changes)])
    assert any(message in line for line in differences)


def test_compare_accepts_what_is_within_the_claims_own_tolerance():
    assert compare_claims([stored_claim()], [stored_claim(measured=[1.015, -1.985], bound=3.02)]) == []


def test_compare_reports_claims_made_twice_or_never_stored():
    assert compare_claims([stored_claim()], [stored_claim()] * 2)
    assert compare_claims([], [stored_claim()]) == ["a was made again but is not stored"]


@pytest.mark.parametrize("value", [0.125, np.float64(0.125), torch.tensor(0.125), 3, "word", 0.0])
@pytest.mark.parametrize("display", [True, False])
def test_glue_writes_what_myst_nb_writes(monkeypatch, value, display):
    myst_nb = pytest.importorskip("myst_nb")
    ours, theirs = [], []
    monkeypatch.setattr(notebook, "_show", lambda data, metadata: ours.append((data, metadata)))
    monkeypatch.setattr("myst_nb.ext.glue.ipy_display", lambda d, raw, metadata: theirs.append((d, metadata)))
    glue("key", value, display=display)
    myst_nb.glue("key", value.item() if hasattr(value, "item") else value, display=display)
    assert ours == theirs


def test_glued_format_is_fixed_before_it_is_stored(shown):
    glue("key", 0.00499, ".2f")
    assert shown[0][0] == {"application/papermill.record/text/plain": "'0.00'"}


PROVENANCE = {"device": "H200", "commit": "abcdef0123", "dirty": False, "seconds": 94.7,
              "started": "2026-11-21T03:17:55Z", "seeds": [0]}  # fmt: skip


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """Write a recording; `recorded` finds it."""
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "schema.json").write_text("{}")
    monkeypatch.setattr(notebook, "data_folder", lambda: tmp_path)

    def write(name, content):
        (tmp_path / "recorded" / f"{name}.json").write_text(json.dumps(content))

    return write


def test_recorded_returns_the_values_and_says_where_they_come_from(recordings, capsys):
    recordings("mine", {"values": {"accuracy": [0.5, 0.6]}, "provenance": PROVENANCE})
    assert recorded("mine") == {"accuracy": [0.5, 0.6]}
    line = "recorded mine: computed on H200, 2026-11-21, in 95 s, commit abcdef0\n"
    assert capsys.readouterr().out == line
    recordings("mine", {"values": {}, "provenance": PROVENANCE | {"dirty": True}})
    recorded("mine")
    assert capsys.readouterr().out.endswith("commit abcdef0 with uncommitted changes\n")


def test_a_recording_that_is_not_there_or_is_none_is_refused(recordings):
    recordings("bad", {})
    recordings("old", {"values": {}, "provenance": {"device": "H200"}})
    for name in ("other", "schema", "../recorded/bad"):
        with pytest.raises(FileNotFoundError, match=r"no recording .*\['bad', 'old'\]"):
            recorded(name)
    with pytest.raises(ValueError, match="not a recording"):
        recorded("bad")
    with pytest.raises(ValueError, match="it has no .*'commit'"):
        recorded("old")


def kept(value, tmp_path, monkeypatch):
    monkeypatch.setenv("OVERPARAM_RECORD_LOG", str(tmp_path / "records"))
    record("it", value)
    (line,) = (tmp_path / "records").read_text().splitlines()
    return json.loads(line)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (3, 3),
        (True, True),
        (None, None),
        ("word", "word"),
        (1 / 3, 0.333333333),
        (1e300, 1e300),
        ((1, [2.5]), [1, [2.5]]),
        ({"a": {"b": (1,)}}, {"a": {"b": [1]}}),
        (np.float32(0.5), 0.5),
        (np.int64(2), 2),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array(["a"]), ["a"]),
        (torch.tensor([0.25, 1.0], requires_grad=True), [0.25, 1.0]),
        (torch.tensor(7), 7),
        ({"run": [torch.zeros(1), np.ones(1)]}, {"run": [[0.0], [1.0]]}),
    ],
)
def test_what_json_can_hold_is_recorded(tmp_path, monkeypatch, value, plain):
    found = kept(value, tmp_path, monkeypatch)
    assert found == {"name": "it", "value": plain}
    assert type(found["value"]) is type(plain)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (float("nan"), "it"),
        ([0.0, float("inf")], r"it\[1\]"),
        (torch.tensor([1.0, float("nan")]), r"it\[1\]"),
        ({"a": np.array([np.nan])}, r"it\['a'\]\[0\]"),
        ({256: 0.5}, "it"),
        (1j, "it"),
        ({1, 2}, "it"),
        (object(), "it"),
    ],
)
@pytest.mark.parametrize("recording", [True, False])
def test_what_json_cannot_hold_is_refused_also_outside_a_recording(
    tmp_path, monkeypatch, value, where, recording
):
    log = tmp_path / "records"
    monkeypatch.setenv("OVERPARAM_RECORD_LOG", str(log) if recording else "")
    with pytest.raises(ValueError, match=rf"^{where} cannot be recorded"):
        record("it", value)
    assert not log.exists()


def test_a_name_is_recorded_once(tmp_path, monkeypatch):
    kept(1, tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="'it' has been recorded before"):
        record("it", 2)
    monkeypatch.delenv("OVERPARAM_RECORD_LOG")
    record("it", 2)  # outside a recording a cell may run twice
    for name in ("", 3):
        with pytest.raises(ValueError, match="name must be a text"):
            record(name, 1)


def test_outside_a_recording_nothing_is_shown_or_written(shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OVERPARAM_RECORD_LOG", raising=False)
    record("it", 1)
    assert not shown and not list(tmp_path.iterdir())


def test_a_failed_claim_carries_its_record():
    with pytest.raises(ClaimError) as caught:
        make([1.0, 3.0], at_most=2.0)
    assert caught.value.record["measured"] == [1.0, 3.0] and caught.value.record["holds"] is False


def test_outside_a_notebook_a_claim_prints_its_line(capsys, monkeypatch):
    monkeypatch.delenv("OVERPARAM_CLAIM_LOG", raising=False)
    make(0.5, at_most=1.0)
    assert capsys.readouterr().out == "claim test/it: holds: It is so (at most 1)\n"

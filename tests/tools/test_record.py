"""`make record`: what is stored, what is refused, and what an interruption leaves."""

import argparse
import json
import re
import signal

import jsonschema
import pytest

from tools import ROOT, notebooks, record
from tools.script import code_cells

from .test_script import write

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCHEMA = json.loads((ROOT / "data" / "recorded" / "schema.json").read_text("utf-8"))
PARAMETERS = ("parameters", "SEEDS = (0, 1)\nIMAGES = 'digits'\nN = 3")
CLAIM = "claim('demo/n', 'N is small', measured=N, at_most=3, source='arithmetic')"
IMPORTS = "from overparam_lib.notebook import claim, record\nfrom overparam_lib.runtime import profile"


@pytest.fixture(autouse=True)
def clean_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "UNFINISHED", tmp_path / "unfinished")
    monkeypatch.setattr(record, "commit", lambda: COMMIT)
    monkeypatch.setattr(record, "changes", lambda: [])
    monkeypatch.delenv("OVERPARAM_RECORD_LOG", raising=False)
    monkeypatch.setenv("OVERPARAM_PROFILE", "cpu")


@pytest.fixture
def make(tmp_path):
    """Record a lecture of some cells; return the exit status."""

    def make(*cells, options=()):
        path = write(tmp_path / "1_first.ipynb", PARAMETERS, IMPORTS, *cells)
        stored = ["--to", str(tmp_path / "recorded"), *options]
        return record.main([str(path), "--profile", "cpu", *stored])

    return make


@pytest.fixture
def stored(tmp_path):
    def read(name="1_first-digits-cpu"):
        return json.loads((tmp_path / "recorded" / f"{name}.json").read_text("utf-8"))

    return read


def names(tmp_path):
    folder = tmp_path / "recorded"
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_a_recording_holds_values_claims_and_where_they_come_from(make, stored, tmp_path):
    assert make("record('n', {'a': [N, 0.5]})\nrecord('profile', profile())", CLAIM) == 0
    found = stored()
    jsonschema.validate(found, SCHEMA)
    assert found["values"] == {"n": {"a": [3, 0.5]}, "profile": "cpu"}
    assert [(c["id"], c["holds"], c["measured"]) for c in found["claims"]] == [("demo/n", True, [3.0])]
    provenance = found["provenance"]
    assert (provenance["commit"], provenance["dirty"], provenance["seeds"]) == (COMMIT, False, [0, 1])
    assert (provenance["dataset"], provenance["profile"]) == ("digits", "cpu")
    assert provenance["lecture"] == "1_first.ipynb"
    assert names(tmp_path) == ["1_first-digits-cpu.json"]
    assert not list((tmp_path / "unfinished").iterdir())


def test_parameters_are_set_and_said(make, stored):
    options = ("--dataset", "mnist", "--set", "N=2 SEEDS=(5,)")
    assert make("record('n', [N, IMAGES, SEEDS])", options=options) == 0
    found = stored("1_first-mnist-cpu")
    assert found["values"]["n"] == [2, "mnist", [5]]
    assert found["provenance"]["set"] == {"IMAGES": "mnist", "N": 2, "SEEDS": [5]}
    assert found["provenance"]["seeds"] == [5]
    assert found["provenance"]["command"] == (
        "make record LECTURE=1_first PROFILE=cpu DATASET=mnist 'SET=N=2 SEEDS=(5,)'"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "M=2"), "no parameter M; it has SEEDS, IMAGES, N"),
        (("--set", "N"), "SET: 'N' is not NAME=value"),
        (("--set", "N=__import__('os')"), "with a Python literal"),
        (("--commit", "abc"), "COMMIT=abc is not 40 hexadecimal digits"),
        (("--commit", "f" * 40), "is checked out"),
    ],
)
def test_what_cannot_be_set_is_refused_before_anything_runs(make, tmp_path, capsys, options, message):
    assert make("record('n', open('ran', 'w'))", options=options) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("nothing was run")
    assert not names(tmp_path)


def test_the_profile_without_its_device_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    path = write(tmp_path / "1_first.ipynb", "record('n', 1)")
    assert record.main([str(path), "--profile", "gpu"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_a_lecture_that_records_nothing_is_refused(make, capsys):
    assert make("n = N") == 2
    assert "calls record(...) nowhere" in capsys.readouterr().err
    assert make("if N > 5:\n    record('n', N)") == 1
    assert "no cell came to record anything" in capsys.readouterr().err


def test_changes_are_refused_unless_allowed(make, stored, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(record, "changes", lambda: [" M overparam_lib/runtime.py"])
    assert make("record('n', N)") == 2
    assert "M overparam_lib/runtime.py" in capsys.readouterr().err
    assert make("record('n', N)", options=["--allow-dirty"]) == 0
    assert stored()["provenance"]["dirty"] is True


def test_without_git_the_commit_is_given(make, stored, capsys, monkeypatch):
    monkeypatch.setattr(record, "commit", lambda: None)
    assert make("record('n', N)") == 2
    assert "give it with COMMIT=" in capsys.readouterr().err
    assert make("record('n', N)", options=["--commit", "e" * 40]) == 0
    assert stored()["provenance"]["commit"] == "e" * 40


def test_a_failed_claim_is_named_and_not_stored_unless_told(make, stored, tmp_path, capsys):
    cells = (CLAIM, "record('after', 'the lecture goes on')")
    assert make(*cells, options=["--set", "N=4"]) == 1
    assert "failed claims: demo/n" in capsys.readouterr().err and not names(tmp_path)
    refused = json.loads((tmp_path / "unfinished" / "1_first-digits-cpu.json").read_text())
    assert refused["values"] == {"after": "the lecture goes on"}
    assert make(*cells, options=["--set", "N=4", "--keep"]) == 0
    jsonschema.validate(stored(), SCHEMA)
    assert [c["holds"] for c in stored()["claims"]] == [False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_it_even_inside_training(make, tmp_path, capsys, number):
    """`train` answers a KeyboardInterrupt by returning: a half-trained network must not be recorded."""
    assert make("record('n', 'old')") == 0
    before = (tmp_path / "recorded" / "1_first-digits-cpu.json").read_bytes()
    training = (
        "import os, torch\n"
        "from overparam_lib.training import Probe, at, full_batch, train\n"
        f"stop = Probe('stop', lambda model: os.kill(os.getpid(), {int(number)}) or 0, at(2))\n"
        "net = torch.nn.Linear(1, 1)\n"
        "sgd = torch.optim.SGD(net.parameters(), lr=0.1)\n"
        "x = torch.ones(1, 1)\n"
        "train(net, full_batch(x, x), loss=torch.nn.functional.mse_loss, optimizer=sgd, steps=9,"
        " probes=[stop])"
    )
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert make("record('n', 'new')", training, "record('m', 1)") == 128 + number
    assert (tmp_path / "recorded" / "1_first-digits-cpu.json").read_bytes() == before
    assert names(tmp_path) == ["1_first-digits-cpu.json"]
    assert "1 results until then" in capsys.readouterr().err
    assert (tmp_path / "unfinished" / "1_first.jsonl").read_text() == '{"name": "n", "value": "new"}\n'
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


def test_a_failing_cell_stores_nothing(make, tmp_path, capsys):
    assert make("record('n', 1)", "1 / 0") == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError" in error and "1_first, cell c3" in error
    assert not names(tmp_path)


@pytest.mark.parametrize("value", ["float('nan')", "{1: 2}", "object()"])
def test_a_value_without_a_place_in_json_is_an_error(make, tmp_path, capsys, value):
    assert make(f"record('n', {value})") == 1
    assert "n cannot be recorded" in capsys.readouterr().err and not names(tmp_path)


def test_a_name_recorded_twice_is_an_error(make, tmp_path, capsys):
    assert make("record('n', 1)", "record('n', 2)") == 1
    assert "'n' has been recorded before" in capsys.readouterr().err and not names(tmp_path)


def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    record.write(path, {"old": 1})
    before = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        record.write(path, {"new": 2})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_arrays_stand_on_one_line_and_texts_are_untouched(tmp_path):
    content = {"a": [1.5, 2.0], "text": "[1,   2]\n [ 3 ]", "b": [[1], [2]], "c": ["x  y"]}
    record.write(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == content and '"a": [ 1.5, 2.0 ]' in text


@pytest.mark.parametrize("name", ["../up", "a b", "schema", ".hidden"])
def test_a_recording_cannot_be_called_just_anything(name):
    with pytest.raises(argparse.ArgumentTypeError):
        record._name(name)


def test_an_unknown_lecture_is_refused(capsys):
    assert record.main(["no_such", "--profile", "cpu"]) == 2
    assert record.main(["all", "--profile", "cpu"]) == 2
    assert "does not name one lecture" in capsys.readouterr().err


def recordings():
    folder = ROOT / "data" / "recorded"
    return [path for path in sorted(folder.glob("*.json")) if path.name != "schema.json"]


def test_every_recording_of_the_book_is_valid_and_comes_from_committed_code():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for path in recordings():
        content = json.loads(path.read_text("utf-8"))
        jsonschema.validate(content, SCHEMA)
        assert not content["provenance"]["dirty"], f"{path.name} was recorded from uncommitted code"
        assert (ROOT / content["provenance"]["lecture"]).is_file()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.pop("claims"),
        lambda r: r["values"].clear(),
        lambda r: r["provenance"].update(commit="abc"),
        lambda r: r["provenance"].update(seeds=["a"]),
        lambda r: r["provenance"].pop("device"),
        lambda r: r["provenance"]["versions"].pop("torch"),
        lambda r: r["claims"][0].pop("holds"),
        lambda r: r.update(more=1),
    ],
)
def test_the_schema_refuses_what_is_not_a_recording(make, stored, spoil):
    assert make("record('n', 1)", CLAIM) == 0
    found = stored()
    spoil(found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, SCHEMA)


def test_cells_that_show_a_recording_are_tagged_so():
    """Else the first recording of a lecture would need itself."""
    for path in notebooks():
        for cell in code_cells(path):
            assert not re.search(r"\brecorded\(", cell.source), f"{cell.name} needs the tag `recorded`"

"""`make new-lecture` lays out a lecture that runs and passes every check as it is."""

import json
import re

import pytest

from tools import ROOT, execute, hygiene, new_lecture, notebooks
from tools.script import calls, code_cells

NAME = "chapters/3_training_speed/1_linear_rate"


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    root = tmp_path_factory.mktemp("book")
    return new_lecture.lay_out(NAME, "A *linear* rate", root), root


@pytest.fixture(scope="module")
def lecture(laid_out):
    """The new lecture, executed."""
    (path, _), _ = laid_out
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OVERPARAM_CLAIM_LOG", raising=False)
        execute.execute(path)
    return json.loads(path.read_text("utf-8"))


def test_the_lecture_and_its_chapter_are_written(laid_out):
    made, root = laid_out
    assert [p.relative_to(root).as_posix() for p in made] == [f"{NAME}.ipynb", f"{NAME[:25]}/index.md"]
    page = made[1].read_text("utf-8")
    assert "# Training speed\n" in page and "[](1_linear_rate.ipynb)" in page


@pytest.mark.parametrize("check", hygiene.CHECKS, ids=lambda check: check.__name__)
def test_a_new_lecture_passes(lecture, check):
    assert check(lecture) == []


def test_no_placeholder_is_left_and_labels_are_its_own(lecture):
    text = json.dumps(lecture, ensure_ascii=False)
    assert not re.search("TITLE|SLUG|SETUP|DESCRIPTION", text)
    assert "# A *linear* rate" in text
    labels = re.findall(r":label: ([\w-]+)", text) + re.findall(r"\$\$ \(([\w-]+)\)", text)
    assert len(labels) == len(set(labels)) >= 7
    assert all("linear-rate" in label for label in labels)
    assert all(claim["id"].startswith("linear-rate/") for claim in hygiene.claims_in(lecture))


def test_it_has_all_that_a_lecture_has(lecture):
    text = "\n".join("".join(cell["source"]) for cell in lecture["cells"] if cell["cell_type"] == "markdown")
    headings = re.findall(r"^## (.*)", text, re.M)
    assert headings[0] == "The question"
    assert headings[-4:] == ["Where theory and experiment part", "Summary", "Exercises", "Further reading"]
    for part in ("{prf:definition}", "{prf:theorem}", "{prf:proof}", "{glue:text}", "{cite:t}"):
        assert part in text
    assert text.count(":::{exercise}") == 3 == len(re.findall(r":::\{solution(?:-start)?\}", text))
    assert re.findall(r"^- \*\*(.*?)\*\*", text, re.M)[:3] == ["You will be able to", "You need", "Run time:"]


def test_it_can_be_recorded(laid_out):
    assert calls(code_cells(laid_out[0][0]), "record")


def test_a_file_that_exists_is_not_touched(tmp_path):
    (path, page) = new_lecture.lay_out(NAME, "Mine", tmp_path)
    path.write_text("mine")
    page.write_text("my chapter")
    with pytest.raises(new_lecture.Refused, match="already there"):
        new_lecture.lay_out(NAME, "Other", tmp_path)
    assert path.read_text() == "mine"
    assert new_lecture.lay_out(NAME.replace("1_linear", "2_linear"), "Next", tmp_path) == [
        path.with_name("2_linear_rate.ipynb")
    ]
    assert page.read_text() == "my chapter"


@pytest.mark.parametrize("name", ["", "3_training_speed/1_x", "chapters/speed/1_x", "chapters/3_a/../1_x"])
def test_a_name_that_no_lecture_can_have_is_refused(tmp_path, name):
    with pytest.raises(new_lecture.Refused, match="must look like"):
        new_lecture.lay_out(name, "Title", tmp_path)
    assert not list(tmp_path.iterdir())


def test_main_says_what_comes_next(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(new_lecture, "ROOT", tmp_path)
    monkeypatch.setattr(new_lecture.lay_out, "__defaults__", (tmp_path,))
    assert new_lecture.main(NAME, "Title") == 0
    printed = capsys.readouterr().out
    assert "_toc.yml" in printed and f"- file: {NAME}\n" in printed
    assert f"make execute LECTURE={NAME}.ipynb" in printed
    assert new_lecture.main(NAME, "") == 2
    assert "TITLE" in capsys.readouterr().err


def test_all_lectures_have_the_same_setup_cell():
    cells = [new_lecture.setup_cell(path) for path in notebooks()]
    assert len({"".join(cell["source"]) for cell in cells}) == 1
    assert all(cell["metadata"] == new_lecture.setup_cell(new_lecture.TEMPLATE)["metadata"] for cell in cells)


def test_the_template_keeps_no_outputs():
    cells = json.loads((ROOT / "tools" / "template.ipynb").read_text("utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)

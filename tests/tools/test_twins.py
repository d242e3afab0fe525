"""Twins of a small book: what the site numbers, what a twin keeps, what the launch tree holds."""

import copy
import re
import subprocess

import nbformat
import pytest

from tools import twins
from tools.plain import Book, Target, Unconvertible
from tools.repository import badges, site_address, with_badges

ADDRESS = "https://github.com/example/overparam-book"
GLUED = "application/papermill.record/"
PAGE = """<article><h1><span class="section-number">1.1. </span>Title</h1>
<div class="math" id="equation-eq-a"><span class="eqno">(1.7)<a class="headerlink">#</a></span>x</div>
<div class="proof theorem" id="thm"><p
class="admonition-title"><span class="caption-number">Theorem 1.2 </span> (None of \\(N\\))</p></div>
<div class="exercise" id="ex"><p
class="admonition-title"><span class="caption-number">Exercise 1.1 </span></p></div>
<figure id="fig"><figcaption><p><span class="caption-number">Fig. 1.1 </span>
<span class="caption-text">Curves.</span></p></figcaption></figure><p id="other">x</p></article>"""


def test_numbers_are_read_from_the_page():
    page = "chapters/1_a/1_x"
    assert twins.numbered_things(page, PAGE) == {
        "equation-eq-a": Target("(1.7)", page, "equation-eq-a"),
        "thm": Target("Theorem 1.2", page, "thm", "None of $N$"),
        "ex": Target("Exercise 1.1", page, "ex"),
        "fig": Target("Fig. 1.1", page, "fig", "Curves."),
    }


def test_the_title_has_the_pages_number(tmp_path):
    (tmp_path / "x.html").write_text(PAGE, "utf-8")
    (tmp_path / "y.html").write_text("<article><h1>No number</h1></article>", "utf-8")
    assert twins.page_number("x", tmp_path) == "1.1. "
    assert twins.page_number("y", tmp_path) == ""


def test_a_missing_site_is_said(tmp_path):
    with pytest.raises(SystemExit, match="run `make book` first"):
        twins.read_book(tmp_path)


def test_authors_are_cited_as_on_the_site(tmp_path):
    entries = [
        ("one", r"P{\'o}czos, Barnab{\'a}s", 2001),
        ("two", "Li, Y. and de la Fuente, A.", 2002),
        ("three", "Du, S. and Lee, J. and Li, H.", 2019),
        ("four", "Du, S. and Zhai, X. and Li, H.", 2019),
    ]
    text = "".join(f"@misc{{{k}, author={{{a}}}, title={{T}}, year={{{y}}}}}\n" for k, a, y in entries)
    (tmp_path / "r.bib").write_text(text, "utf-8")
    cited = twins.citations(tmp_path / "r.bib")
    assert cited["one"] == ("Póczos", "2001")
    assert cited["two"] == ("Li and de la Fuente", "2002")
    assert cited["three"][0] == cited["four"][0] == "Du et al."
    assert {cited["three"][1], cited["four"][1]} == {"2019a", "2019b"}


SETUP = 'import sys\n\nLIBRARY = ""  # the address\nif LIBRARY:\n    print(LIBRARY)'


@pytest.fixture
def source(tmp_path):
    """A lecture with a glued number, below a book's root."""
    setup = nbformat.v4.new_code_cell(SETUP, metadata={"tags": ["setup-colab"]}, execution_count=1)
    about = {"scrapbook": {"name": "share", "mime_prefix": GLUED}}
    output = nbformat.v4.new_output("display_data", {f"{GLUED}text/plain": "'12%'"}, metadata=about)
    glue = nbformat.v4.new_code_cell("glue()", outputs=[output], execution_count=2)
    texts = ["# Title\n\n- aim", "It is {glue:text}`share`."]
    cells = [nbformat.v4.new_markdown_cell(text) for text in texts]
    path = tmp_path / "chapters" / "1_a" / "1_x.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[*cells, setup, glue]), path)
    return path


def change(path, edit):
    notebook = nbformat.read(path, 4)
    edit(notebook)
    nbformat.write(notebook, path)


def twin_of(path, site=None, library=""):
    return twins.twin(path, Book({}, {}, {}, site), library, path.parents[2], "1.1. ")


def test_a_twin_keeps_cells_metadata_and_outputs(source):
    before, after = nbformat.read(source, 4), twin_of(source, library="git+x@v1")
    assert after.cells[1].source == "It is 12%."
    for old, new in zip(before.cells, after.cells, strict=True):
        same = copy.deepcopy(old)
        same.source = new.source
        assert same == new
    assert after.cells[2].source == SETUP.replace('LIBRARY = ""', 'LIBRARY = "git+x@v1"')
    assert after.cells[3].source == "glue()"


def test_with_an_address_the_title_leads_to_the_page(source):
    assert twin_of(source).cells[0].source == "# 1.1. Title\n\n- aim"
    with_link = twin_of(source, "https://example.github.io/book").cells[0].source
    lead = "*A plain copy of [this page of the book](https://example.github.io/book/chapters/1_a/1_x.html).*"
    assert with_link == f"# 1.1. Title\n\n{lead}\n\n- aim"


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda n: n.cells.pop(2), "setup-colab"),
        (lambda n: n.cells[2].update(source="LIBRARY = 'x'"), "setup-colab"),
        (lambda n: n.cells[3].metadata.update(mystnb={"figure": {"caption": "c"}}), "a caption"),
        (lambda n: n.cells[1].update(source="{x}`y`"), "not known"),
        (lambda n: n.cells[1].update(source="{glue:text}`lost`"), "glues 'lost'"),
    ],
)
def test_a_lecture_that_has_no_twin(source, edit, problem):
    change(source, edit)
    with pytest.raises(Unconvertible, match=problem):
        twin_of(source)


def test_colab_installs_the_release():
    version = twins.__version__
    assert twins.library_to_install(ADDRESS, {}) == f"git+{ADDRESS}@v{version}"
    assert twins.library_to_install(ADDRESS, {"RELEASE": "v9"}) == f"git+{ADDRESS}@v9"
    assert twins.library_to_install(None, {"RELEASE": "v9"}) == ""


def git(folder, *arguments):
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(source, tmp_path, monkeypatch):
    """A checkout with one lecture, and a site that knows nothing."""
    (tmp_path / "README.md").write_text("# Book\n\nText\n", "utf-8")
    script = tmp_path / "binder" / "postBuild"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n", "utf-8")
    script.chmod(0o755)
    (tmp_path / ".github").mkdir()
    for name in (".github/test.yml", "gone.txt", "untracked.txt"):
        (tmp_path / name).write_text("x", "utf-8")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "rm", "-q", "--cached", "untracked.txt")
    (tmp_path / "gone.txt").unlink()
    monkeypatch.setattr(twins, "read_book", lambda url: Book({}, {}, {}, url))
    monkeypatch.setattr(twins, "page_number", lambda page: "")
    return tmp_path


def test_the_tree_is_the_tracked_files_with_twins_for_lectures(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    (folder / "left_from_before.txt").write_text("x", "utf-8")
    written = twins.write_tree(folder, ADDRESS, checkout, {})
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files == {"README.md", "binder/postBuild", "chapters/1_a/1_x.ipynb"}
    assert written == ["chapters/1_a/1_x.ipynb"]
    assert (folder / "binder" / "postBuild").stat().st_mode & 0o111
    assert "It is 12%." in (folder / written[0]).read_text("utf-8")
    assert f"git+{ADDRESS}@v" in (folder / written[0]).read_text("utf-8")
    assert "colab-badge.svg" in (folder / "README.md").read_text("utf-8")


def test_an_error_leaves_the_old_tree(checkout, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    (folder / "old.txt").write_text("x", "utf-8")
    change(source, lambda n: n.cells[1].update(source="{x}`y`"))
    with pytest.raises(Unconvertible):
        twins.write_tree(folder, None, checkout, {})
    assert (folder / "old.txt").exists()


def test_without_git_it_says_so(tmp_path):
    with pytest.raises(SystemExit, match="the files that git tracks"):
        twins.tracked_files(tmp_path)


def test_main_says_where_and_what(monkeypatch, capsys):
    monkeypatch.setattr(twins, "write_tree", lambda *_: ["a.ipynb"])
    for known, said in ((ADDRESS, f"On Colab they install git+{ADDRESS}@v"), (None, "they install nothing")):
        monkeypatch.setattr(twins, "address", lambda known=known: known)
        assert twins.main() == 0
        assert said in capsys.readouterr().out


def test_the_sites_address():
    assert site_address(ADDRESS) == "https://example.github.io/overparam-book"
    assert site_address("https://github.com/Someone/someone.github.io") == "https://someone.github.io"


def test_badges_come_go_and_change():
    readme = "# Book\n\nText\n"
    once = with_badges(readme, ADDRESS)
    assert once.startswith("# Book\n\n<!-- badges -->\n[![Checks](") and once.endswith("\n\nText\n")
    assert with_badges(once, ADDRESS) == once
    assert with_badges(once, "https://github.com/o/n").count("<!-- badges -->") == 1
    assert with_badges(once, None) == readme == with_badges(readme, None)
    targets = re.findall(r"\]\((https://[^)]+)\)", badges(ADDRESS, "chapters/a/b.ipynb"))
    launch = "example/overparam-book"
    assert f"https://colab.research.google.com/github/{launch}/blob/launch/chapters/a/b.ipynb" in targets
    assert f"https://mybinder.org/v2/gh/{launch}/launch?urlpath=lab/tree/chapters/a/b.ipynb" in targets

"""The plain twins say what the built pages say: the same words, the same numbers, the same code."""

import copy
import re

import nbformat
import pytest
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt

from tools import ROOT, SITE, notebooks
from tools.plain import left_over
from tools.twins import LAUNCH, page_number, read_book, twin, write_tree

ADDRESS = "https://github.com/example/overparam-book"
URL = "https://example.github.io/overparam-book"
_TAG = re.compile(r"\\tag\{([\d.]+)\}")
_MATH = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$(?!\s).+?(?<![\\\s])\$(?!\d)", re.S)
_COPY = re.compile(r"\*A plain copy of .*?\*\n\n")
_END = re.compile(r"\*End of [^*]*\*\n")
LECTURES = [path.relative_to(ROOT).with_suffix("").as_posix() for path in notebooks()]


def article(page):
    soup = BeautifulSoup((SITE / f"{page}.html").read_text("utf-8"), "html.parser")
    return soup.select_one("article section")


def page_words(section):
    """The page's words in order, a formula as one, without cells and numbers of equations."""
    for tag in section.select(".cell, .headerlink, .eqno, script, style"):
        tag.decompose()
    for tag in section.select(".math"):
        tag.replace_with(" □ ")
    return words(section.get_text())


def twin_words(notebook):
    """The same of a twin: its Markdown as a plain reader sets it."""
    source = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    source = _MATH.sub(" □ ", _END.sub("", _COPY.sub("", source)))
    return words(BeautifulSoup(MarkdownIt().enable("table").render(source), "html.parser").get_text())


def words(text):
    return re.findall(r"[^\W_]+|□", text)


@pytest.fixture(scope="module")
def twins():
    """Every lecture's twin, with and without the repository's address."""
    made = {}
    for url in ("", URL):
        book = read_book(url=url or None)
        for page in LECTURES:
            library = f"git+{ADDRESS}@v1" if url else ""
            made[page, url] = twin(ROOT / f"{page}.ipynb", book, library, number=page_number(page))
    return made


@pytest.mark.parametrize("url", ["", URL], ids=["no address", "address"])
@pytest.mark.parametrize("page", LECTURES)
def test_a_twin_says_what_the_page_says(twins, page, url):
    assert twin_words(twins[page, url]) == page_words(article(page))


@pytest.mark.parametrize("page", LECTURES)
def test_the_comparison_finds_a_changed_number_and_a_lost_word(twins, page):
    told = page_words(article(page))
    numbered = re.compile(r"((?:Theorem|Proposition|Lemma|Definition) \d+\.)\d+")
    for edit in (lambda text: numbered.sub(r"\g<1>99", text, count=1), lambda text: ""):
        changed = copy.deepcopy(twins[page, ""])
        cell = next(c for c in changed.cells if c.cell_type == "markdown" and numbered.search(c.source))
        cell.source = edit(cell.source)
        assert twin_words(changed) != told


@pytest.mark.parametrize("page", LECTURES)
def test_equations_have_the_pages_numbers(twins, page):
    sources = "\n".join(c.source for c in twins[page, ""].cells if c.cell_type == "markdown")
    shown = [number.get_text().strip("#()") for number in article(page).select(".eqno")]
    assert _TAG.findall(sources) == shown and shown


@pytest.mark.parametrize("page", LECTURES)
def test_nothing_of_the_books_markup_is_left(twins, page):
    cells = (c for url in ("", URL) for c in twins[page, url].cells if c.cell_type == "markdown")
    assert [found for cell in cells if (found := left_over(cell.source))] == []


@pytest.mark.parametrize("page", LECTURES)
def test_a_twin_has_the_code_and_outputs_of_its_lecture(twins, page):
    nbformat.validate(twins[page, URL])
    before, after = nbformat.read(ROOT / f"{page}.ipynb", 4), twins[page, URL]
    assert after.metadata == before.metadata
    for old, new in zip(before.cells, after.cells, strict=True):
        if old.cell_type == "code" and "setup-colab" not in old.metadata.get("tags", ()):
            assert old == new
        assert {**old, "source": ""} == {**new, "source": ""}


@pytest.mark.parametrize("page", LECTURES)
def test_only_the_librarys_line_of_the_setup_cell_changes(twins, page):
    (old,) = (c.source for c in nbformat.read(ROOT / f"{page}.ipynb", 4).cells if is_setup(c))
    (new,) = (c.source for c in twins[page, URL].cells if is_setup(c))
    assert new.replace(f"git+{ADDRESS}@v1", "") == old != new
    (without,) = (c.source for c in twins[page, ""].cells if is_setup(c))
    assert without == old


def is_setup(cell):
    return "setup-colab" in cell.metadata.get("tags", ())


@pytest.mark.parametrize("page", LECTURES)
def test_links_to_the_site_lead_to_its_pages(twins, page):
    sources = "\n".join(c.source for c in twins[page, URL].cells if c.cell_type == "markdown")
    links = re.findall(rf"\]\({re.escape(URL)}/([^)#]*)(?:#([^)]*))?\)", sources)
    assert (f"{page}.html", "") in links
    for path, anchor in links:
        html = (SITE / path).read_text("utf-8")
        assert not anchor or f'id="{anchor}"' in html


def test_the_launch_tree_holds_a_twin_of_every_lecture(tmp_path):
    written = write_tree(tmp_path / "launch", ADDRESS)
    assert [name.removesuffix(".ipynb") for name in written] == LECTURES
    for name in ("binder/postBuild", "pyproject.toml", "overparam_lib/__init__.py", "README.md"):
        assert (tmp_path / "launch" / name).is_file()
    assert not (tmp_path / "launch" / ".github").exists()
    assert LAUNCH.parent == SITE.parent

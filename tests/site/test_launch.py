"""The site built for a stand-in address: its buttons and links lead to what there will be."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from bs4 import BeautifulSoup

from tools import ROOT, notebooks
from tools.twins import tracked_files

REPOSITORY = "https://github.com/example/overparam-book"
LECTURES = [path.relative_to(ROOT).as_posix() for path in notebooks()]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The parsed pages of a site built for the address, by name."""
    folder = tmp_path_factory.mktemp("site")
    program = str(Path(sys.executable).parent / "jupyter-book")
    command = [program, "build", ".", "-W", "-n", "--keep-going", "-q", "--path-output", str(folder)]
    environment = {**os.environ, "REPOSITORY": REPOSITORY}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    html = folder / "_build" / "html"
    found = (path for path in html.rglob("*.html") if "_static" not in path.parts)
    return {p.relative_to(html).as_posix(): BeautifulSoup(p.read_text("utf-8"), "html.parser") for p in found}


def links(page):
    return [link["href"] for link in page.select("a[href]")]


@pytest.mark.parametrize("lecture", LECTURES)
def test_a_lecture_opens_its_twin_on_colab_and_binder(pages, lecture):
    found = links(pages[lecture.replace(".ipynb", ".html")])
    colab = f"https://colab.research.google.com/github/example/overparam-book/blob/launch/{lecture}"
    binder = f"https://mybinder.org/v2/gh/example/overparam-book/launch?urlpath=lab/tree/{lecture}"
    assert found.count(colab) == 1 and found.count(binder) == 1


@pytest.mark.parametrize("lecture", LECTURES)
def test_a_lecture_runs_live_on_the_branch_launch(pages, lecture):
    page = pages[lecture.replace(".ipynb", ".html")]
    assert page.select_one("button[onclick='initThebeSBT()']")
    settings = page.select_one("script[type='text/x-thebe-config']").get_text()
    assert 'repo: "example/overparam-book"' in settings and 'ref: "launch"' in settings
    declared = [
        s.get_text() for s in page.select("script:not([src])") if "const THEBE_JS_URL" in s.get_text()
    ]
    assert len(declared) == 1
    assert page.select("script[src*='sphinx-thebe']")


def test_nothing_is_loaded_from_elsewhere_for_it(pages):
    fetched = [tag[a] for p in pages.values() for tag, a in loads(p) if urlsplit(tag[a]).netloc]
    assert not fetched


def loads(page):
    yield from ((tag, "src") for tag in page.select("[src]"))
    yield from ((tag, "href") for tag in page.select("link[rel~=stylesheet][href]"))


def test_every_link_to_the_repository_leads_to_a_tracked_file(pages):
    known = set(tracked_files())
    ours = {href for page in pages.values() for href in links(page) if "example/overparam-book" in href}
    for href in ours:
        assert leads_somewhere(href, known), href
    assert len(ours) >= 3


def leads_somewhere(href, known):
    """Whether a link is to the repository, its issues, or a file of the branch launch."""
    parts = urlsplit(href)
    if parts.netloc == "mybinder.org":
        return parse_qs(parts.query)["urlpath"][0].removeprefix("lab/tree/") in known
    path = re.sub(r"^/(?:github/)?example/overparam-book", "", parts.path)
    if file := re.fullmatch(r"/(?:blob|edit|raw|tree)/launch/(.+)", path):
        return file[1] in known
    return path in ("", "/", "/issues", "/issues/new")


def test_a_wrong_link_is_found():
    known = {"chapters/a.ipynb"}
    good = "https://colab.research.google.com/github/example/overparam-book/blob/launch/chapters/a.ipynb"
    assert leads_somewhere(good, known) and leads_somewhere(f"{REPOSITORY}/issues/new?title=x", known)
    for wrong in (good.replace("launch", "main"), good.replace("a.ipynb", "b.ipynb"), f"{REPOSITORY}/wiki"):
        assert not leads_somewhere(wrong, known)
    assert not leads_somewhere("https://mybinder.org/v2/gh/o/n/launch?urlpath=lab/tree/b.ipynb", known)

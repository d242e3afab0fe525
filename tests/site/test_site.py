"""The built pages. `make test PART=book` builds them first.

Each check takes a page and returns its faults; below, each is shown to find one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from tools import ROOT, SITE, notebooks

GENERATED = ("genindex", "search", "_modules")
# What a browser fetches by itself; a link to another site is not among it.
_FETCHED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "video": "src"}
_FETCHED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "shortcut"}
_RAW = re.compile(
    r":{3,}|`{3,}|\{[a-z]+(?::[a-z]+)*\}`|\{(?:prf|glue|eq|cite|numref|ref|doc|math)\b[^}]*\}"
    r"|(?<!\w)\([\w-]+\)=(?!\S)|\\begin\{|\$\$|\$□|□\$|(?<!\w)\*\*\w|application/papermill|<Figure size",
    re.M,
)
_GLUED_QUOTES = re.compile(r"(?<![\w'’])'[-−]?\d[\d.,]*(?:e[-+]?\d+)?%?'")


@dataclass(frozen=True)
class Page:
    """A page of the site: where it lies, and its HTML."""

    path: Path
    html: str

    @cached_property
    def soup(self) -> BeautifulSoup:
        return BeautifulSoup(self.html, "html.parser")

    @cached_property
    def ids(self) -> frozenset[str]:
        named = {tag["name"] for tag in self.soup.select("a[name]")}
        return frozenset({tag["id"] for tag in self.soup.select("[id]")} | named)

    @cached_property
    def article(self) -> BeautifulSoup:
        return self.soup.select_one("article") or self.soup

    @property
    def name(self) -> str:
        return self.path.relative_to(SITE).as_posix() if self.path.is_relative_to(SITE) else self.path.name


@cache
def read(path: Path) -> Page:
    return Page(path, path.read_text("utf-8"))


def pages() -> list[Page]:
    if not (SITE / "intro.html").is_file():
        pytest.fail("there is no site in _build/html: run `make book`, or `make test PART=book`")
    redirect = SITE / "index.html"
    found = (p for p in sorted(SITE.rglob("*.html")) if "_static" not in p.parts and p != redirect)
    return [read(path) for path in found]


def is_written_by_us(page: Page) -> bool:
    return not page.name.startswith(GENERATED)


def dead_links(page: Page) -> Iterator[str]:
    """Links within the site lead to a file that exists, at an anchor that exists."""
    for link in page.soup.select("a[href]"):
        parts = urlsplit(link["href"])
        if parts.scheme or parts.netloc or link["href"] == "#":
            continue
        target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
        if target.is_dir():
            target /= "index.html"
        if target != page.path and not target.is_file():
            yield f"{link['href']} leads nowhere"
        elif parts.fragment and target.suffix == ".html":
            there = page if target == page.path else read(target)
            if unquote(parts.fragment) not in there.ids:
                yield f"{link['href']}: no such anchor"


def empty_links(page: Page) -> Iterator[str]:
    """A link has words, a picture with words, or a label."""
    for link in page.soup.select("a[href]"):
        pictures = "".join(image.get("alt", "") for image in link.select("img"))
        if not (link.get_text(strip=True) or pictures or link.get("aria-label") or link.get("title")):
            yield f"the link to {link['href']} has no text"


def unresolved(page: Page) -> Iterator[str]:
    """No reference was left without a target."""
    for tag in page.article.select(".xref.std-ref, .problematic, .system-message, span.xref.myst"):
        if tag.find_parent("a") is None:
            yield f"unresolved: {tag.get_text()[:60]!r}"


def external_loads(page: Page) -> Iterator[str]:
    """The page loads nothing from another site, not even from a script written in it."""
    for tag in page.soup.find_all(list(_FETCHED)):
        address = tag.get(_FETCHED[tag.name], "")
        fetched = tag.name != "link" or _FETCHED_LINKS & set(tag.get("rel", ()))
        if fetched and (urlsplit(address).scheme in ("http", "https") or address.startswith("//")):
            yield f"<{tag.name}> loads {address}"
    for script in page.soup.select("script:not([src]), style"):
        # Live code's constant is only a name: the browser's tests see that nothing is fetched unasked.
        text = re.sub(r'const THEBE_JS_URL = "[^"]*"', "", script.get_text())
        for address in re.findall(r"(?:https?:)?//[\w-]+(?:\.[\w-]+)+/[^\s\"')]*", text):
            if "w3.org" not in address:
                yield f"a script names {address}"


def missing_files(page: Page) -> Iterator[str]:
    """The site's own scripts, styles and pictures are there."""
    for tag in page.soup.find_all(list(_FETCHED)):
        parts = urlsplit(tag.get(_FETCHED[tag.name], ""))
        fetched = tag.name != "link" or _FETCHED_LINKS & set(tag.get("rel", ()))
        local = parts.path and not parts.scheme and not parts.netloc
        if fetched and local and not (page.path.parent / unquote(parts.path)).is_file():
            yield f"<{tag.name}> needs {parts.path}, which is not there"


def missing_alt_texts(page: Page) -> Iterator[str]:
    """A picture says in words what it shows."""
    for image in page.article.select("img"):
        if len(image.get("alt", "").strip()) < 3:
            yield f"{image.get('src', '')[-40:]} has no alt text"


def raw_text(page: Page) -> Iterator[str]:
    """Nothing of the source's markup is left in the text."""
    text = _prose(page)
    for found in _RAW.finditer(text):
        yield f"raw markup: {text[max(0, found.start() - 20) : found.end() + 30]!r}"


def glued_quotes(page: Page) -> Iterator[str]:
    """No number in the text is in the quotes of a Python string."""
    for found in _GLUED_QUOTES.finditer(_prose(page)):
        yield f"a quoted number: {found[0]}"


def no_favicon(page: Page) -> Iterator[str]:
    """The page has the book's icon."""
    icon = page.soup.select_one("link[rel~=icon]")
    if icon is None or not icon["href"].endswith("_static/favicon.svg"):
        yield "no favicon"


def no_description(page: Page) -> Iterator[str]:
    """The page's head has one description, and it says something."""
    found = [tag.get("content", "").strip() for tag in page.soup.select("meta[name=description]")]
    if len(found) != 1 or not 20 <= len(found[0]) <= 200:
        yield f"descriptions: {found}"


def mathjax_from_elsewhere(page: Page) -> Iterator[str]:
    """A page with formulas loads MathJax, from the site itself."""
    sources = [tag["src"] for tag in page.soup.select("script[src*=mathjax]")]
    if page.soup.select(".math, .tex2jax_process") and not sources:
        yield "formulas, but no MathJax"
    for source in sources:
        if not (page.path.parent / urlsplit(source).path).is_file():
            yield f"{source} is not a file of the site"


def repeated_ids(page: Page) -> Iterator[str]:
    """An id is used once: otherwise a link leads to the wrong place."""
    ids = [tag["id"] for tag in page.article.select("[id]")]
    yield from sorted({f"the id {id!r} is used {ids.count(id)} times" for id in ids if ids.count(id) > 1})


EVERYWHERE: tuple[Callable[[Page], Iterator[str]], ...] = (
    dead_links,
    empty_links,
    unresolved,
    external_loads,
    missing_files,
    missing_alt_texts,
    no_favicon,
    no_description,
    mathjax_from_elsewhere,
)
IN_OUR_TEXT = (raw_text, glued_quotes, repeated_ids)


def _prose(page: Page) -> str:
    article = BeautifulSoup(str(page.article), "html.parser")
    # Formulas are set by MathJax in the browser; code may say what it likes.
    for tag in article.select("pre, code, script, style, .math, .tex2jax_process"):
        tag.replace_with("□")
    return article.get_text()


@pytest.mark.parametrize("check", EVERYWHERE + IN_OUR_TEXT, ids=lambda check: check.__name__)
def test_pages(check):
    looked_at = [page for page in pages() if check in EVERYWHERE or is_written_by_us(page)]
    faults = [f"{page.name}: {fault}" for page in looked_at for fault in check(page)]
    assert not faults, "\n".join(faults)


def test_every_source_has_its_page():
    toc = re.findall(r"(?:root|file): (\S+)", (ROOT / "_toc.yml").read_text("utf-8"))
    built = {page.name.removesuffix(".html") for page in pages()}
    assert set(toc) <= built
    lectures = {p.relative_to(ROOT).with_suffix("").as_posix() for p in notebooks()}
    assert lectures <= set(toc)


def test_the_ledger_has_every_claim():
    from tools.claims import stored_claims

    ledger = read(SITE / "chapters" / "reference" / "claims_ledger.html")
    rows = [code.get_text() for code in ledger.soup.select("table.ledger .ledger-id")]
    assert rows == [claim["id"] for claim in stored_claims()]


def test_every_lecture_is_on_the_map():
    hrefs = {link["href"].split("#")[0] for link in read(SITE / "intro.html").article.select("a[href]")}
    assert {p.relative_to(ROOT).with_suffix(".html").as_posix() for p in notebooks()} <= hrefs


GOOD = """<html><head><link rel="icon" href="_static/favicon.svg">
<meta name="description" content="A page that has everything a page needs.">
</head><body><article><h1 id="top">Title</h1><a href="#top">up</a><img src="" alt="A curve">
<pre>:::{note}</pre></article></body></html>"""

FAULTS = {
    dead_links: ['<a href="#nowhere">x</a>', '<a href="no-such-page.html">x</a>'],
    empty_links: ['<a href="#top"></a>', '<a href="#top"><img src="" alt=""></a>'],
    unresolved: ['<span class="xref std-ref">?</span>', '<span class="xref myst">?</span>'],
    external_loads: [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//cdn.example/x.css">',
        "<script>import('https://cdn.example/x.js')</script>",
    ],
    missing_files: ['<script src="_static/no-such.js"></script>', '<img src="none.png" alt="None at all">'],
    missing_alt_texts: ['<img src="">', '<img src="" alt=" ">'],
    raw_text: [
        "<p>:::{prf:theorem} T</p>",
        "<p>see {eq}`x`</p>",
        "<p>{prf:ref}</p>",
        "<p>(label)=</p>",
        "<p>$<span class=math>x</span>$</p>",
    ],
    glued_quotes: ["<p>a share of '12.3%'</p>", "<p>it is '0.5'.</p>"],
    mathjax_from_elsewhere: [
        '<span class="math">x</span>',
        '<script src="https://cdn.example/mathjax/tex.js"></script>',
    ],
    repeated_ids: ['<p id="top">again</p>'],
}


def page_with(addition: str) -> Page:
    return Page(Path("/nowhere/page.html"), GOOD.replace("</article>", addition + "</article>"))


@pytest.mark.parametrize("check", EVERYWHERE + IN_OUR_TEXT, ids=lambda check: check.__name__)
def test_a_good_page_passes(check):
    assert list(check(page_with(""))) == [] or check is missing_files


@pytest.mark.parametrize(
    ("check", "addition"), [(check, text) for check, texts in FAULTS.items() for text in texts]
)
def test_a_fault_is_found(check, addition):
    assert list(check(page_with(addition)))


def test_a_page_without_icon_or_description_is_found():
    bare = Page(Path("/nowhere/page.html"), "<html><head></head><body></body></html>")
    assert list(no_favicon(bare)) and list(no_description(bare))


def test_every_check_is_shown_to_fail():
    assert {*FAULTS, no_favicon, no_description} == {*EVERYWHERE, *IN_OUR_TEXT}

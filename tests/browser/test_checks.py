"""Each check of a page in the browser finds a page with the fault, and passes one without."""

import pytest

from tools import SITE
from tools.browser import (
    CHECKS,
    barriers,
    console_messages,
    external_requests,
    failed_requests,
    formula_errors,
    loads,
    not_there,
    page_overflow,
    script_errors,
    served,
    unrendered_formulas,
    visit,
    weights,
    wide_content,
    wrong_theme,
)

HEAD = """<!DOCTYPE html><html lang="en" data-theme="light"><head><title>A page</title>
<link rel="icon" href="data:,"><style>html, body {background: #fff; color: #000; margin: 0}
article {width: 300px; overflow-wrap: anywhere} pre, .wide {overflow-x: auto}</style>"""
MATHJAX = """<script>window.MathJax = {options: {processHtmlClass: "math"}}</script>
<script src="mathjax/tex-chtml.js"></script>"""
BODY = "</head><body><main><h1>A page</h1><article><p>Text.</p>{}</article></main></body></html>"
FORMULA = r'<p><span class="math">\({}\)</span></p>'

GOOD = {
    "text": HEAD + BODY.format(""),
    "formula": HEAD + MATHJAX + BODY.format(FORMULA.format("x^2")),
    "scrolling": HEAD + BODY.format(f'<pre tabindex="0">{"long " * 200}</pre>'),
}
BAD = {
    console_messages: ["<script>console.error('wrong')</script>", "<script>console.warn('odd')</script>"],
    script_errors: ["<script>no_such_function()</script>"],
    failed_requests: ['<img src="none.png" alt="None">', '<script src="none.js"></script>'],
    external_requests: ['<img src="https://elsewhere.invalid/x.png" alt="Elsewhere">'],
    unrendered_formulas: [FORMULA.format("x^2"), r"<p>left \(x\) over</p>"],
    formula_errors: [MATHJAX + FORMULA.format(text) for text in (r"\left( x", r"1 + \nosuchmacro")],
    page_overflow: [
        '<p style="width: 3000px">wide</p>',
        '<details><summary>Fold</summary><p style="width: 3000px">wide</p></details>',
    ],
    wide_content: [
        '<table><tr><td style="min-width: 600px">wide</td></tr></table>',
        '<div style="overflow: hidden"><pre style="width: 600px">cut off</pre></div>',
    ],
    wrong_theme: [
        "<script>document.documentElement.dataset.theme = 'dark'</script>",
        "<style>body {background: #111; color: #fff}</style>",
    ],
    barriers: [
        '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">',
        '<p style="color: #bbb">faint</p>',
        "<button></button>",
        '<details><summary>Fold</summary><p style="color: #bbb">faint</p></details>',
        '<style>.c {color: #bbb}</style><pre><span class="k">if</span> <span class="c"># faint</span></pre>',
        '<pre><span class="k">if</span> <span class="k" style="color: #bbb">or</span></pre>',
    ],
}


@pytest.fixture
def look(browser, tmp_path):
    def open_page(html, name="page.html"):
        (tmp_path / "page.html").write_text(html, "utf-8")
        if "mathjax/" in html:
            (tmp_path / "mathjax").symlink_to(SITE / "_static" / "mathjax")
        with served(tmp_path) as address:
            return visit(browser, address, name)[0]

    return open_page


@pytest.mark.parametrize("html", GOOD.values(), ids=GOOD)
def test_a_good_page_passes(look, html):
    seen = look(html)
    assert [fault for check in CHECKS for fault in check(seen)] == []


@pytest.mark.parametrize(
    ("check", "addition"), [(check, text) for check, texts in BAD.items() for text in texts]
)
def test_a_fault_is_found(look, check, addition):
    assert list(check(look(HEAD + BODY.format(addition))))


@pytest.mark.parametrize("follows", [True, False])
def test_a_page_must_follow_a_change_of_scheme(browser, tmp_path, follows):
    """As the book's theme does, for a reader whose system turns dark in the evening."""
    script = """<script>const dark = matchMedia("(prefers-color-scheme: dark)");
const set = () => {document.documentElement.dataset.theme = dark.matches ? "dark" : "light"};
set(); dark.onchange = FOLLOWS;</script>
<style>html[data-theme="dark"] body {background: #111; color: #fff}</style>"""
    html = HEAD + script.replace("FOLLOWS", "set" if follows else "null") + BODY.format("")
    (tmp_path / "page.html").write_text(html, "utf-8")
    with served(tmp_path) as address:
        for schemes in (("light", "dark"), ("dark", "light")):
            first, second = visit(browser, address, "page.html", schemes=schemes)
            assert (first.scheme, second.scheme) == schemes
            assert list(wrong_theme(first)) == []
            assert (list(wrong_theme(second)) == []) == follows


def test_a_page_that_is_not_there_is_found(look):
    assert list(not_there(look(GOOD["text"], "other.html"))) == ["HTTP status 404"]


def test_every_check_is_shown_to_fail():
    assert {*BAD, not_there} == {*CHECKS}


def test_text_is_weighed_compressed_and_pictures_are_not(browser, tmp_path):
    (tmp_path / "page.html").write_text(
        HEAD + BODY.format('<img src="x.png" alt="X">' + "word " * 9000), "utf-8"
    )
    (tmp_path / "x.png").write_bytes(bytes(5000))
    with served(tmp_path) as address:
        found = loads(browser, address, "page.html")
    sizes = {load.path: load.size for load in found}
    assert sizes["x.png"] == 5000 and sizes["page.html"] < 2000
    assert f"{sum(sizes.values()):,}  in all" in weights(found)

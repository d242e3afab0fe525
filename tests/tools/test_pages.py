"""What is done to finished pages; `tests/browser` looks at them in Chromium."""

import re
from pathlib import Path

import pytest
from sphinx.errors import ExtensionError

from tools import pages

HEAD = """<html data-content_root="../"><head>
  <!-- Loaded before other Sphinx assets -->
  <link href="../_static/styles/theme.css?digest=1" rel="stylesheet" />
  <link href="../_static/vendor/fontawesome/6.5.2/css/all.min.css?digest=1" rel="stylesheet" />
  <link rel="preload" as="font" href="../_static/vendor/fontawesome/6.5.2/webfonts/fa-solid-900.woff2" />
  <script src="../_static/vendor/fontawesome/6.5.2/js/all.min.js?digest=1"></script>
    <script src="../_static/clipboard.min.js?v=1"></script>
    <script src="../_static/togglebutton.js?v=1"></script>
    <script>window.MathJax = {"options": {}}</script>
    <script defer="defer" src="../_static/mathjax/tex-chtml.js"></script>
</head><body><input class="sidebar-toggle"/>"""
SHEET = (
    '.fa-solid{font-weight:900}.fa-bars:before,.fa-navicon:before{content:"\\f0c9"}'
    '.fa-cat:before{content:"\\f6be"}@font-face{font-family:x;src:url(y)}'
    "@keyframes fa-spin{0%{left:0}to{left:1px}}.fa-lg{font-size:2em}"
)


def loaded(html):
    return re.findall(r"_static/([\w./-]+)", pages.lighter(html))


def test_a_text_page_loads_no_more_than_it_needs():
    assert loaded(HEAD) == ["styles/theme.css"]
    assert "MathJax" not in pages.lighter(HEAD)


@pytest.mark.parametrize(
    ("body", "file"),
    [
        ('<span class="math notranslate">x</span>', "mathjax/tex-chtml.js"),
        ('<div class="claim tex2jax_process">x</div>', "mathjax/tex-chtml.js"),
        ('<div class="highlight"><pre>x</pre></div>', "clipboard.min.js"),
        ('<div class="solution dropdown admonition">x</div>', "togglebutton.js"),
    ],
)
def test_what_is_on_a_page_has_its_script(body, file):
    assert loaded(HEAD + body) == ["styles/theme.css", file]


def test_formulas_keep_their_settings():
    assert "window.MathJax" in pages.lighter(HEAD + '<span class="math">x</span>')


def test_the_icons_come_first_and_once():
    once = pages.with_icons(HEAD, "icons.css?v=1")
    assert once.index('href="../_static/icons.css?v=1"') < once.index("theme.css")
    twice = pages.with_icons(once, "icons.css?v=2")
    assert re.findall(r"icons\.css\?v=\d", twice) == ["icons.css?v=2"]


def test_a_page_without_the_themes_head_is_refused():
    with pytest.raises(ExtensionError, match="no place for the icons"):
        pages.with_icons('<html data-content_root="./"><head></head>', "icons.css")


def test_the_sheet_has_the_named_icons_only():
    sheet, characters = pages.icon_sheet(SHEET, {"fa-navicon", "fa-solid"})
    assert characters == {"\uf0c9"}
    assert "fa-bars" in sheet and "fa-solid" in sheet and sheet.endswith(".fa-lg{font-size:2em}")
    assert not re.search("fa-cat|font-face|keyframes", sheet)


def test_icons_are_found_in_classes():
    assert pages.icon_names('<i class="fa-solid fa-bars"></i> fa-cat') == {"fa-solid", "fa-bars"}


def test_a_fold_of_the_sidebar_has_a_name():
    html = '<a href="x">1. Data</a><details><summary><span></span></summary>'
    assert '<summary aria-label="Pages of 1. Data">' in pages.repaired(html)
    assert pages.repaired(pages.repaired(html)) == pages.repaired(html)


def test_the_sidebar_is_a_landmark_and_sources_a_list():
    html = '<div class="bd-sidebar-primary bd-sidebar"><div role="doc-biblioentry">'
    assert 'role="complementary" aria-label="Site"' in pages.repaired(html)
    assert 'role="listitem"' in pages.repaired(html)
    assert pages.repaired(pages.repaired(html)) == pages.repaired(html)


@pytest.mark.parametrize("work", [lambda static: pages.write_icons(static, [HEAD]), pages.drop_unused_files])
def test_a_theme_without_the_expected_files_stops_the_build(tmp_path: Path, work):
    with pytest.raises(ExtensionError):
        work(tmp_path)


def test_a_wide_table_can_be_reached_by_keyboard():
    html = '<div class="pst-scrollable-table-container"><table></table></div>'
    assert '<div class="pst-scrollable-table-container" tabindex="0"><table>' in pages.repaired(html)
    assert pages.repaired(pages.repaired(html)) == pages.repaired(html)

"""What is done to the finished pages: what they need not load is left out, their HTML is repaired.

A Sphinx extension that `tools.site` turns on. The theme loads all 2,000 icons of Font Awesome, twice, as a
script and as fonts, and every page loads MathJax. A page of this book loads the icons that the book has, and
the scripts and styles for what is on the page. All is made from the files that the theme and MathJax bring;
if they are not what this module knows, the build fails. It is of sphinx-book-theme 1.1 and MathJax 3.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

_ICONS = "vendor/fontawesome/6.5.2"
# What a file of the theme is for: pages without it do not load the file.
_FORMULA = r'class="(?:[\w-]+ )*(?:math|tex2jax_process|mathjax_process)[ "]'
_ONLY_WITH = {
    "mathjax/": _FORMULA,
    "clipboard.min.js": '<div class="highlight"',
    "copybutton.": '<div class="highlight"',
    "togglebutton.": r'class="(?:[\w-]+ )*(?:dropdown|toggle)[ "]',
    "sphinx-design.min.css": r'class="(?:[^"]* )?sd-',
    "design-tabs.js": r'class="(?:[^"]* )?sd-',
    "mystnb.": r'class="[^"]*\bcell[ _"]',
    "proof.css": r'class="(?:[\w-]+ )*proof[ "]',
    "exercise.css": r'class="(?:[\w-]+ )*(?:exercise|solution)[ "]',
    "sphinx-thebe.": "THEBE_JS_URL",
    f"{_ICONS}/": r"(?!)",
}
_LOADED = re.compile(r'[ \t]*<(?:script|link)\b[^>]*?\b(?:src|href)="([^"]*)"[^>]*>(?:</script>)?\n?')
_SETTINGS = re.compile(r"[ \t]*<script>window\.MathJax = .*?</script>\n?")
_SIDEBAR = re.compile(r'(<div class="bd-sidebar-primary bd-sidebar[^"]*")>')
_FOLDED_ENTRY = re.compile(r'>([^<>]*)</a><details( open="open")?><summary>')
_TABLE = '<div class="pst-scrollable-table-container"'
_MENU, _SEARCH, _WARNING = "\uf0c9", "\uf002", "\uf071"
_FONTS = {  # a style's classes, its name in the theme's sheet, its weight, its file
    "solid": (r"fa-solid|fas|fa", "Free", 900, "fa-solid-900.ttf"),
    "regular": (r"fa-regular|far", "Free", 400, "fa-regular-400.ttf"),
    "brands": (r"fa-brands|fab|github|gitlab", "Brands", 400, "fa-brands-400.ttf"),
}


def lighter(html: str) -> str:
    """Return a page without the scripts and styles that it does not need."""
    html = _LOADED.sub(lambda found: found[0] if _needed(found[1], html) else "", html)
    return html if re.search(_FORMULA, html) else _SETTINGS.sub("", html)


def with_icons(html: str, sheet: str) -> str:
    """Return a page that loads the book's own sheet of icons, before the other sheets."""
    root = re.search(r'data-content_root="([^"]*)"', html)[1]
    link = f'<link href="{root.removeprefix("./")}_static/{sheet}" rel="stylesheet" />'
    html, found = re.subn(r"<link [^>]*_static/icons\.css[^>]*>", link, html)
    if not found:
        html, found = re.subn(r"<!-- Loaded before other Sphinx assets -->", rf"\g<0>\n  {link}", html)
    if found != 1:
        raise ExtensionError("a page's head is not the theme's: there is no place for the icons")
    return html


def repaired(html: str) -> str:
    """Return a page whose sidebar is named, whose sources are a list, whose tables scroll by keyboard."""
    html = _SIDEBAR.sub(r'\1 role="complementary" aria-label="Site">', html)
    html = _FOLDED_ENTRY.sub(
        lambda found: f'>{found[1]}</a><details{found[2] or ""}><summary aria-label="Pages of {found[1]}">',
        html,
    )
    html = html.replace(_TABLE + ">", f'{_TABLE} tabindex="0">')
    return html.replace('role="doc-biblioentry"', 'role="listitem"')


def icon_names(html: str) -> set[str]:
    """Return the names of the icons on a page, such as ``fa-bars``."""
    classes = " ".join(re.findall(r'class="([^"]*)"', html))
    return set(re.findall(r"(?<![\w-])fa-[\w-]+", classes))


def icon_sheet(theirs: str, names: set[str]) -> tuple[str, set[str]]:
    """Return Font Awesome's sheet with the named icons only, without fonts, and their characters."""
    characters = set()

    def chosen(rule: re.Match) -> str:
        if names.isdisjoint(re.findall(r"\.(fa-[\w-]+):", rule[1])):
            return ""
        characters.add(_character(rule[2]))
        return rule[0]

    sheet = re.sub(r"((?:\.fa-[\w-]+:before,?)+)\{content:\"([^\"]*)\"\}", chosen, theirs)
    sheet = re.sub(r"@font-face\{[^}]*\}", "", sheet)
    # Nothing here spins or bounces.
    sheet = re.sub(r"@(?:-webkit-)?keyframes [\w-]+\{(?:[^{}]*\{[^{}]*\})*\}", "", sheet)
    return sheet, characters


def theme_characters(static: Path) -> set[str]:
    """Return the icons that the theme's sheets draw by their characters, such as an admonition's."""
    sheets = [
        _text(static / "styles" / name) for name in ("pydata-sphinx-theme.css", "sphinx-book-theme.css")
    ]
    escaped = re.findall(r'"(\\f[0-9a-f]{3})"', "".join(sheets))
    return {*map(_character, escaped), *re.findall("[\ue000-\uf8ff]", "".join(sheets))}


def write_icons(static: Path, pages: list[str]) -> str:
    """Write the sheet and the fonts of the pages' icons; return the sheet's name with its version."""
    vendor = static / _ICONS
    names = set().union(*map(icon_names, pages))
    sheet, characters = icon_sheet(_text(vendor / "css" / "all.min.css"), names)
    characters |= theme_characters(static)
    if not {_MENU, _SEARCH, _WARNING} <= characters:
        raise ExtensionError("Font Awesome's sheet or the theme's has none of the icons that it should have")
    for style, (classes, family, weight, file) in _FONTS.items():
        if not any(re.search(rf'class="(?:[^"]* )?(?:{classes})[ "]', page) for page in pages):
            continue
        font = _font_of(vendor / "webfonts" / file, characters)
        (static / f"icons-{style}.woff").write_bytes(font)
        for generation in (5, 6):
            sheet += (
                f'@font-face{{font-display:block;font-family:"Font Awesome {generation} {family}";'
                f'font-weight:{weight};src:url(icons-{style}.woff?v={_version(font)}) format("woff")}}'
            )
    (static / "icons.css").write_text(sheet, "utf-8")
    return f"icons.css?v={_version(sheet.encode())}"


def drop_unused_files(static: Path) -> None:
    """Remove from the site what no page loads: the icons as they came, MathJax's other bundles."""
    if not (static / "mathjax" / "tex-chtml.js").is_file():
        raise ExtensionError("there is no _static/mathjax/tex-chtml.js for the pages to load")
    unused = [
        *(static / _ICONS).glob("js/*"),
        *(static / _ICONS).glob("webfonts/*"),
        *static.glob("*webpack*.html"),
    ]
    unused += [path for path in static.glob("mathjax/*.js") if re.match(r"(?:tex|mml|node)-", path.name)]
    unused += [path for path in static.glob("mathjax/sre/mathmaps/*") if path.stem not in ("base", "en")]
    for path in unused:
        if path.name != "tex-chtml.js":
            path.unlink()


def finish(app: Sphinx, problem: Exception | None) -> None:
    """Do all of it, when the pages are written."""
    if problem or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    pages = dict(_pages(Path(app.outdir)))
    sheet = write_icons(static, list(pages.values()))
    for path, html in pages.items():
        path.write_text(repaired(with_icons(lighter(html), sheet)), "utf-8")
    drop_unused_files(static)


# The theme lets the keyboard reach what scrolls, but looks for it only as the page opens and is resized.
_AFTER_UNFOLDING = """document.addEventListener("click", (event) => {
  if (event.target.closest(".dropdown, details")) window.dispatchEvent(new Event("resize"));
});"""


def setup(app: Sphinx) -> dict:
    """Register it, to come after the extensions that copy files."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    app.add_js_file(None, body=_AFTER_UNFOLDING)
    app.connect("build-finished", finish, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _needed(address: str, html: str) -> bool:
    wanted = (pattern for name, pattern in _ONLY_WITH.items() if f"_static/{name}" in address)
    return all(re.search(pattern, html) for pattern in wanted)


def _pages(outdir: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(outdir.rglob("*.html")):
        html = path.read_text("utf-8")
        if "data-content_root" in html:  # else it is a redirection
            yield path, html


def _font_of(path: Path, characters: set[str]) -> bytes:
    with TTFont(BytesIO(_bytes(path)), recalcTimestamp=False) as font, BytesIO() as out:
        # Its licence keeps the name for the font as it was published.
        subsetter = Subsetter(Options(name_IDs=[0, 13, 14], notdef_outline=True))
        subsetter.populate(unicodes=[ord(c) for c in characters])
        subsetter.subset(font)
        font.flavor = "woff"
        font.save(out)
        return out.getvalue()


def _character(escaped: str) -> str:
    code = re.fullmatch(r"\\([0-9a-f]+)", escaped)
    return chr(int(code[1], 16)) if code else escaped.removeprefix("\\")


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ExtensionError(f"the theme brings no {path.name}: tools/pages.py knows another version of it")
    return path.read_bytes()


def _text(path: Path) -> str:
    return _bytes(path).decode("utf-8")


def _version(content: bytes) -> str:
    return sha256(content).hexdigest()[:8]

"""The book's pages in a browser: open one, note what can be seen of it, find what is wrong with it.

Each check takes a `Visit` and returns its faults. `tests/browser` runs them on every page, and shows that
each can fail.
"""

from __future__ import annotations

import gzip
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Response, sync_playwright

SIZES = {"desktop": (1366, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")
# A page is opened once at each size, and axe run on it then: each scheme is the first at one of them.
_FIRST = {"desktop": "light", "phone": "dark"}
_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
_QUIET = (
    "--no-sandbox",  # Chromium refuses to start as root with it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_COMPRESSED = ("text/", "javascript", "json", "xml")  # what a web server sends compressed; svg is xml

# A page is still when its fonts are there and MathJax has set its formulas.
_SETTLE = """async () => {
  if (window.MathJax) await window.MathJax.startup.promise;
  await document.fonts.ready;
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""

_UNFOLD = """() => {
  for (const fold of document.querySelectorAll("article details")) fold.open = true;
  for (const button of document.querySelectorAll("article button.toggle-button-hidden")) button.click();
}"""

# To axe a formula is a word, not the elements that MathJax made of it: they are most of a lecture's, it takes
# long over them, and it does not read them as text. And in a block of code one word of each colour is enough,
# the others would be found alike: with all of them a visit to a lecture takes three times as long.
_LESS_FOR_AXE = """() => {
  for (const formula of document.querySelectorAll("mjx-container")) formula.textContent = "formula";
  for (const block of document.querySelectorAll("pre")) {
    const copy = block.cloneNode(true);
    const colors = new Set();
    for (const word of copy.querySelectorAll("span[class]")) {
      if (word.children.length || word.style.length || word.id) continue;
      const color = word.parentElement.className + " > " + word.className;
      if (colors.has(color)) word.replaceWith(word.textContent);
      colors.add(color);
    }
    copy.normalize();
    block.replaceWith(copy);
  }
}"""

# `wide`: what reaches out of the column of text and of all that scrolls within it.
_MEASURE = """() => {
  const root = document.documentElement;
  const article = document.querySelector("article") ?? document.body;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const shown = (element) => element.outerHTML.replace(/\\s+/g, " ").slice(0, 120);
  const limit = Math.min(article.getBoundingClientRect().right, root.clientWidth) + 1;
  const scrolls = (element) => ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
  const reachesOut = (element) => {
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.right <= limit) return false;
    for (let outer = element; outer && outer !== document.body; outer = outer.parentElement) {
      if (scrolls(outer) && outer.getBoundingClientRect().right <= limit) return false;
    }
    return true;
  };
  const formulas = all(".math");
  const luminance = (color) => {
    const [red, green, blue] = color.match(/[\\d.]+/g).map(Number);
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255;
  };
  return {
    formulas: formulas.length,
    rendered: all(".math mjx-container").length,
    unrendered: formulas.filter((f) => !f.querySelector("mjx-container")).map(shown),
    leftover: all("article p, article li, article td, article .claim")
      .filter((e) => !e.querySelector("code, pre") && /\\\\[([]/.test(e.innerText)).map(shown),
    merrors: all("mjx-merror").map((e) => e.parentElement.closest("mjx-container").parentElement.innerText
      || shown(e)),
    undefinedMacros: all("mjx-mtext").filter((e) => e.style.color === "red").map((e) => e.innerText
      || [...e.querySelectorAll("mjx-c")].map((c) => String.fromCodePoint(
        parseInt(c.className.replace("mjx-c", ""), 16))).join("")),
    width: root.scrollWidth,
    room: root.clientWidth,
    wide: all("pre, table, img, p, li, div.claim, mjx-container", article)
      .filter((e) => !e.closest("aside, mjx-assistive-mml")).filter(reachesOut).map(shown),
    theme: root.dataset.theme ?? "",
    ground: luminance(getComputedStyle(document.body).backgroundColor),
  };
}"""


@dataclass(frozen=True)
class Load:
    """A file that a page loaded, with its size as a web server would send it."""

    path: str
    kind: str
    size: int


@dataclass
class Visit:
    """What was seen of a page at one size, in one scheme: as it opens (`seen`) and unfolded."""

    name: str
    size: str
    scheme: str
    status: int = 0
    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    external: list[str] = field(default_factory=list)
    seen: dict = field(default_factory=dict)
    unfolded: dict = field(default_factory=dict)
    violations: list[tuple[str, str]] = field(default_factory=list)  # unfolded; in the first scheme only

    def __str__(self) -> str:
        return f"{self.name} ({self.size}, {self.scheme})"


def executable() -> str | None:
    """Return the path of Chromium: what the variable CHROMIUM names, else the one on PATH."""
    return shutil.which(os.environ.get("CHROMIUM") or "chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium, and stop it at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(_QUIET))
        try:
            yield browser
        finally:
            browser.close()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:  # a page closed while it was loading
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; give its address."""
    with _Server(("127.0.0.1", 0), partial(_Silent, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def opened(browser: Browser, size: str = "desktop", scheme: str = "light") -> Iterator[Page]:
    """Open an empty page of a size in a scheme, as for a first visit."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    try:
        yield context.new_page()
    finally:
        context.close()


def settle(page: Page) -> None:
    """Wait until fonts and formulas are in place."""
    page.evaluate(_SETTLE)


def visit(
    browser: Browser, address: str, name: str, size: str = "desktop", schemes: Sequence[str] = ("light",)
) -> list[Visit]:
    """Open a page in the first scheme, and note what can be seen of it there and in the others.

    For the others the reader's system changes its scheme while the page is open. What the page says and asks
    for meanwhile is noted with the first.
    """
    found = [Visit(name, size, scheme) for scheme in schemes]
    with opened(browser, size, schemes[0]) as page:
        _listen(page, address, found[0])
        status = page.goto(address + name, wait_until="load").status
        for seen in found:
            seen.status, seen.seen = status, _measured(page, seen.scheme)
        page.evaluate(_UNFOLD)
        page.wait_for_timeout(500)  # the folds open slowly
        for seen in reversed(found):
            seen.unfolded = _measured(page, seen.scheme)
        found[0].violations = _axe(page)
    return found


def visit_all(address: str, names: list[str], browsers: int = 2) -> list[Visit]:
    """Visit pages at every size in every scheme, with as many browsers as a small machine has cores."""
    todo: SimpleQueue[tuple[str, str, Sequence[str]]] = SimpleQueue()
    for name in names:
        for size, first in _FIRST.items():
            todo.put((name, size, sorted(SCHEMES, key=lambda scheme: scheme != first)))

    def some(_: int) -> list[Visit]:
        found: list[Visit] = []
        with chromium() as browser:
            while True:
                try:
                    name, size, schemes = todo.get_nowait()
                except Empty:
                    return found
                found += visit(browser, address, name, size, schemes)

    with ThreadPoolExecutor(browsers) as pool:
        return [seen for share in pool.map(some, range(browsers)) for seen in share]


def loads(browser: Browser, address: str, name: str) -> list[Load]:
    """Return what a first visit to a page loads, the largest first."""
    responses: list[Response] = []
    with opened(browser) as page:
        page.on("response", lambda response: responses.append(response))
        page.goto(address + name, wait_until="networkidle")
        settle(page)
        found = [_load(response, address) for response in responses]
    return sorted(found, key=lambda load: -load.size)


def weights(found: list[Load]) -> str:
    """Return a table of the files, and the sums by kind."""
    kinds = sorted({load.kind for load in found})
    lines = [f"{load.size:>9,}  {load.kind:<10}  {load.path}" for load in found]
    sums = [f"{sum(f.size for f in found if f.kind == kind):>9,}  {kind}" for kind in kinds]
    return "\n".join([*lines, *sums, f"{sum(load.size for load in found):>9,}  in all"])


def not_there(seen: Visit) -> Iterator[str]:
    """The page is served: a page of error would pass many other checks."""
    if seen.status != 200:
        yield f"HTTP status {seen.status}"


def console_messages(seen: Visit) -> Iterator[str]:
    """The console shows no error and no warning."""
    yield from seen.console


def script_errors(seen: Visit) -> Iterator[str]:
    """No script stopped at an error."""
    yield from seen.errors


def failed_requests(seen: Visit) -> Iterator[str]:
    """All that the page asks for is there."""
    yield from seen.failed


def external_requests(seen: Visit) -> Iterator[str]:
    """The page asks no other site for anything."""
    yield from seen.external


def unrendered_formulas(seen: Visit) -> Iterator[str]:
    """Every formula is set, and once."""
    found = seen.seen
    yield from (f"not rendered: {formula}" for formula in found["unrendered"] + found["leftover"])
    if found["rendered"] != found["formulas"]:
        yield f"{found['formulas']} formulas, {found['rendered']} rendered"


def formula_errors(seen: Visit) -> Iterator[str]:
    """MathJax understood every formula, and knows every macro."""
    yield from (f"error in the formula {text}" for text in seen.seen["merrors"])
    yield from (f"unknown macro {text}" for text in seen.seen["undefinedMacros"])


def page_overflow(seen: Visit) -> Iterator[str]:
    """The page does not scroll sideways, folded or not."""
    for state in (seen.seen, seen.unfolded):
        if state["width"] > state["room"]:
            yield f"the page is {state['width']} wide, the window {state['room']}"


def wide_content(seen: Visit) -> Iterator[str]:
    """Tables, code, formulas and figures stay in the column of text: if too wide, they scroll there."""
    found = dict.fromkeys(seen.seen["wide"] + seen.unfolded["wide"])
    yield from (f"reaches out of the text: {element}" for element in found)


def wrong_theme(seen: Visit) -> Iterator[str]:
    """The page is dark for a reader who wants that, else light."""
    if seen.seen["theme"] != seen.scheme:
        yield f"the theme is {seen.seen['theme']!r}"
    if (seen.seen["ground"] < 0.5) != (seen.scheme == "dark"):
        yield f"the ground's luminance is {seen.seen['ground']:.2f}"


def barriers(seen: Visit) -> Iterator[str]:
    """Nothing keeps out a reader with a screen reader, a keyboard or weak eyes, as far as axe can tell."""
    for rule, html in seen.violations:
        yield f"axe {rule}: {' '.join(html.split())[:160]}"


CHECKS: tuple[Callable[[Visit], Iterator[str]], ...] = (
    not_there,
    console_messages,
    script_errors,
    failed_requests,
    external_requests,
    unrendered_formulas,
    formula_errors,
    page_overflow,
    wide_content,
    wrong_theme,
    barriers,
)


def _measured(page: Page, scheme: str) -> dict:
    page.emulate_media(color_scheme=scheme)
    settle(page)
    return page.evaluate(_MEASURE)


def _listen(page: Page, address: str, seen: Visit) -> None:
    def console(message) -> None:
        if message.type in ("error", "warning"):
            seen.console.append(f"{message.type}: {message.text[:200]}")

    def request(asked) -> None:
        if not asked.url.startswith((address, "data:", "blob:")):
            seen.external.append(asked.url[:200])

    def response(answer) -> None:
        if answer.status >= 400:
            seen.failed.append(f"{answer.status} {answer.url}")

    page.on("console", console)
    page.on("pageerror", lambda error: seen.errors.append(str(error)[:200]))
    page.on("request", request)
    page.on("requestfailed", lambda asked: seen.failed.append(f"{asked.failure} {asked.url[:200]}"))
    page.on("response", response)


def _axe(page: Page) -> list[tuple[str, str]]:
    options = {"runOnly": {"type": "tag", "values": _TAGS}, "resultTypes": ["violations"], "preload": False}
    page.evaluate(_LESS_FOR_AXE)
    found = Axe().run(page, options=options).response["violations"]
    return [(rule["id"], node["html"]) for rule in found for node in rule["nodes"]]


def _load(response: Response, address: str) -> Load:
    body = response.body()
    compressed = any(kind in response.headers.get("content-type", "") for kind in _COMPRESSED)
    size = len(gzip.compress(body)) if compressed else len(body)
    path = urlsplit(response.url.removeprefix(address)).path
    return Load(path, response.request.resource_type, size)

"""Every page of the built site in Chromium. `make test PART=browser` builds the site if there is none."""

import re

import pytest

from tools import ROOT, notebooks
from tools.browser import CHECKS, barriers, loads, opened, settle, weights

# What a text page may load before its figures, compressed, in bytes.
ROOM = 1_000_000
# What axe finds in the theme and cannot be repaired here: (rule, beginning of the element, reason).
KNOWN: tuple[tuple[str, str, str], ...] = ()


def is_known(fault: str) -> bool:
    return any(fault.startswith(f"axe {rule}: {element}") for rule, element, _ in KNOWN)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_pages(visits, check):
    faults = [f"{seen}: {fault}" for seen in visits for fault in check(seen) if not is_known(fault)]
    assert not faults, "\n".join(faults)


def test_every_known_fault_is_still_there(visits):
    found = [fault for seen in visits for fault in barriers(seen)]
    for rule, element, _ in KNOWN:
        assert any(fault.startswith(f"axe {rule}: {element}") for fault in found), (rule, element)


def test_the_book_was_looked_at(visits):
    seen = {visit.name for visit in visits}
    toc = re.findall(r"(?:root|file): (\S+)", (ROOT / "_toc.yml").read_text("utf-8"))
    assert {f"{name}.html" for name in toc} <= seen
    assert sum(visit.seen["formulas"] for visit in visits) > 100


def test_a_text_page_is_light(browser, site):
    found = loads(browser, site, "intro.html")
    print(f"\nintro.html\n{weights(found)}")
    assert sum(load.size for load in found if load.kind != "image") < ROOM
    assert not [load.path for load in found if "mathjax" in load.path or "fontawesome" in load.path]


def test_a_lecture_is_light(browser, site):
    found = loads(browser, site, lecture())
    print(f"\n{lecture()}\n{weights(found)}")
    assert sum(load.size for load in found if load.kind != "image") < ROOM


def lecture() -> str:
    """The lecture that has everything: folded proofs and solutions, claims, a recording."""
    (path,) = (path for path in notebooks() if path.stem == "3_what_sgd_does")
    return path.relative_to(ROOT).with_suffix(".html").as_posix()


def test_the_first_page_is_found(browser, site):
    with opened(browser) as page:
        page.goto(site)
        page.wait_for_url("**/intro.html")


def test_search_finds_a_word(browser, site):
    with opened(browser) as page:
        page.goto(site + "search.html?q=clustered")
        page.locator("#search-results ul.search li a").first.wait_for()
        targets = page.locator("#search-results ul.search li a").evaluate_all("all => all.map(a => a.href)")
    assert any("2_clustered_data" in target for target in targets)


def test_the_search_button_opens_the_field(browser, site):
    with opened(browser) as page:
        page.goto(site + "intro.html")
        assert not page.locator(".search-button__search-container #search-input").is_visible()
        page.locator(".bd-sidebar-primary .search-button__button").click()
        page.locator(".search-button__search-container #search-input").fill("clustered")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=clustered")


@pytest.mark.parametrize("fold", ["div.book-proof.dropdown", "div.solution.dropdown"])
def test_a_fold_opens_and_shows_its_formulas(browser, site, fold):
    with opened(browser) as page:
        page.goto(site + lecture())
        settle(page)
        box = page.locator(fold).filter(has=page.locator("mjx-container")).first
        formula = box.locator("mjx-container").first
        assert not formula.is_visible()
        box.locator("button.toggle-button").click()
        formula.wait_for(state="visible")
        assert formula.bounding_box()["height"] > 5


def test_the_theme_can_be_changed(browser, site):
    with opened(browser) as page:
        page.goto(site + "intro.html")
        root, grounds = page.locator("html"), set()
        for _ in range(3):
            page.locator(".theme-switch-button").first.click()
            assert page.locator(".theme-switch-button i.theme-switch:visible").count() == 1
            grounds.add((root.get_attribute("data-mode"), root.get_attribute("data-theme")))
    assert grounds == {("auto", "light"), ("light", "light"), ("dark", "dark")}


def test_the_menu_opens_on_a_phone(browser, site):
    with opened(browser, "phone") as page:
        page.goto(site + "intro.html")
        entry = page.locator(".bd-sidebar-primary a", has_text="Notation")
        assert not entry.is_visible()
        page.locator("button.primary-toggle").click()
        entry.click()
        page.wait_for_url("**/notation.html")


def test_icons_are_drawn(browser, site):
    with opened(browser) as page:
        page.goto(site + "intro.html")
        settle(page)
        page.locator(".fa-bars").first.wait_for()
        assert page.evaluate("document.fonts.check('900 16px \"Font Awesome 6 Free\"', '\\uf0c9')")
        icons = page.locator("[class*='fa-']:visible").evaluate_all(
            "all => all.map(e => [e.className, getComputedStyle(e, '::before').content,"
            " getComputedStyle(e).fontFamily])"
        )
    assert icons
    assert not [icon for icon in icons if icon[1] in ("none", "normal") or "Font Awesome" not in icon[2]]


def test_code_is_copied(browser, site):
    with opened(browser) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto(site + lecture())
        block = page.locator("div.highlight").first
        block.hover()
        block.locator("button.copybtn").click()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.strip() == block.locator("pre").inner_text().strip()

"""One Chromium and one server for all tests; each page is opened at each size, and seen in each scheme."""

import pytest

from tools import SITE
from tools.browser import chromium, executable, served, visit_all


@pytest.fixture(scope="session")
def browser():
    if executable() is None:
        pytest.fail("missing: chromium (apt install chromium)")
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def site():
    if not (SITE / "intro.html").is_file():
        pytest.fail("there is no site in _build/html: run `make book`, or `make test PART=browser`")
    with served(SITE) as address:
        yield address


@pytest.fixture(scope="session")
def visits(browser, site):
    pages = (p.relative_to(SITE).as_posix() for p in sorted(SITE.rglob("*.html")) if "_static" not in p.parts)
    names = [name for name in pages if name != "index.html"]  # it only leads to the first page
    assert names
    return visit_all(site, names)

"""The code in the README and on the reference pages runs."""

import re

import pytest

from tools import CHAPTERS, ROOT

PAGES = [ROOT / "README.md", *sorted((CHAPTERS / "reference").rglob("*.md"))]
EXAMPLES = [
    (page.name, code)
    for page in PAGES
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
]


def test_there_are_examples():
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize(("page", "code"), EXAMPLES, ids=[page for page, _ in EXAMPLES])
def test_an_example_runs(page, code):
    exec(compile(code, page, "exec"), {})

"""The small functions of the site's extension; `tests/site` looks at what they build."""

import pytest
from docutils import nodes
from docutils.frontend import get_default_settings
from docutils.utils import new_document

from tools import site


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.123"), (-0.5, "−0.5"), (20.0, "20"), (1.5e-7, "1.5·10⁻⁷"), (-2e12, "−2·10¹²"), (0.0, "0")],
)
def test_numbers_have_three_digits(value, text):
    assert site.number_text(value) == text


def test_figures_are_shown_with_their_range():
    assert site.measured_text([0.5]) == "0.5"
    assert site.measured_text([0.1, 0.2, 0.3]) == "0.2 (0.1 to 0.3, 3 figures)"


def test_bounds_are_shown_in_words():
    claim = {"kind": "at_most", "bound": 0.25, "rtol": 0.0, "atol": 0.0}
    assert site.bound_text(claim) == "at most 0.25"
    assert site.bound_text({**claim, "kind": "at_least"}) == "at least 0.25"
    assert (
        site.bound_text({**claim, "kind": "expected", "bound": -0.5, "rtol": 0.1}) == "expected −0.5 ± 0.05"
    )


@pytest.fixture
def document():
    made = new_document("page", get_default_settings())
    made += nodes.section("", nodes.title("", "Title"), nodes.paragraph("", "A sentence. " * 30))
    return made


def test_a_description_is_the_pages_own(document):
    assert site.description_of(document, {"description": "What it is"}) == "What it is"


def test_else_it_is_the_beginning_of_the_text(document):
    text = site.description_of(document, {})
    assert text.startswith("A sentence. A sentence.") and text.endswith(" …")
    assert len(text) <= 162

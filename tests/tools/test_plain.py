"""Each construct of the book's Markdown has its plain form, and what has none stops the program."""

import pytest

from tools.plain import Book, Lecture, Target, Unconvertible, formatted, left_over

HERE, THERE = "chapters/1_a/1_here", "chapters/1_a/2_there"
BOOK = Book(
    targets={
        "thm": Target("Theorem 1.2", HERE, "thm", "Main"),
        "untitled": Target("Lemma 1.3", HERE, "untitled"),
        "ex": Target("Exercise 1.1", HERE, "ex", "The $N$ kinks"),
        "far": Target("Proposition 2.1", THERE, "far"),
        "fig": Target("Fig. 1.1", HERE, "fig", "Curves"),
        "equation-eq-a": Target("(1.7)", HERE, "equation-eq-a"),
        "sec": Target("A section", HERE, "sec", numbered=False),
    },
    pages={HERE: Target("Here", HERE, ""), THERE: Target("There", THERE, "")},
    citations={"li": ("Li and Liang", "2018"), "du": ("Du et al.", "2019b")},
)
GLUED = {(HERE, "share"): "'12%'", (HERE, "x"): "0.123", (THERE, "y"): "5"}


def lecture(site=None):
    book = Book(BOOK.targets, BOOK.pages, BOOK.citations, site)
    return Lecture(book, HERE, lambda page, key: GLUED[page, key])


def plain(source):
    return lecture().convert(source)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("see {prf:ref}`thm`", "see Theorem 1.2"),
        ("see {prf:ref}`the theorem <thm>`", "see the theorem"),
        ("{numref}`Picture %s <fig>`, {numref}`fig`", "Picture 1.1, Fig. 1.1"),
        ("{ref}`sec` and {ref}`there <sec>`", "A section and there"),
        ("by {eq}`eq-a`", "by (1.7)"),
        ("by {eq}`eq_a`", "by (1.7)"),
        ("{cite:t}`li` and {cite:p}`du`", "Li and Liang (2018) and (Du et al., 2019b)"),
        ("{cite}`li,du`", "(Du et al., 2019b; Li and Liang, 2018)"),
        ("{cite:author}`li`, {cite:year}`li`", "Li and Liang, 2018"),
        ("{glue:text}`share` of {glue:text}`x:.1f`", "12% of 0.1"),
        ("{glue:text}`2_there.ipynb::y:s`", "5"),
        ("{doc}`2_there`", "[There](2_there.md)"),
        ("[](2_there.ipynb)", "[There](2_there.md)"),
        ("[words](2_there.ipynb#far)", "[words](2_there.md)"),
        ("[words](#sec), [](#sec)", "words, A section"),
        ("[a paper](https://example.org/x)", "[a paper](https://example.org/x)"),
        ("{math}`x^2`", "$x^2$"),
        ("{func}`~overparam_lib.training.train`", "`train`"),
        ("a note[^n]\n\n[^n]: The note.", "a note<sup>1</sup>\n\n<sup>1</sup> The note."),
        ("(sec)=\n## A section", "## A section"),
        ("% said to nobody\nText", "Text"),
        ("Text\n+++\nmore", "Text\nmore"),
    ],
)
def test_what_stands_in_a_line(source, text):
    assert plain(source) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (":::{prf:theorem} Main\n:label: thm\nLet $x$.\n:::", "> **Theorem 1.2 (Main).** Let $x$."),
        ("```{prf:lemma}\n:label: untitled\nLet $x$.\n```", "> **Lemma 1.3.** Let $x$."),
        (":::{prf:remark} Aside\n:nonumber:\nWords.\n:::", "> **Remark (Aside).** Words."),
        (":::{prf:proof}\nOne.\n\nTwo.\n:::", "> **Proof.** One.\n>\n> Two."),
        (":::{prf:proof} Proof of {prf:ref}`thm`\nOne.\n:::", "> **Proof of Theorem 1.2.** One."),
        (
            ":::{prf:proof}\n:class: dropdown\nBecause.\n:::",
            "<details>\n<summary><b>Proof</b></summary>\n\nBecause.\n\n</details>",
        ),
        (
            ":::{exercise} x\n:label: ex\n- one\n- two\n:::",
            "> **Exercise 1.1 (The $N$ kinks).**\n>\n> - one\n> - two",
        ),
        (
            ":::{solution} ex\n:class: dropdown\nBy {eq}`eq-a`.\n:::",
            "<details>\n<summary><b>Solution to Exercise 1.1 (The $N$ kinks)</b></summary>"
            "\n\nBy (1.7).\n\n</details>",
        ),
        (
            "::::{exercise}\n:label: ex\nA\n\n:::{note}\nB\n:::\n::::",
            "> **Exercise 1.1 (The $N$ kinks).** A\n>\n> > **Note.** B",
        ),
        (":::{admonition} Mind $x$\n---\nclass: tip\n---\nText\n:::", "> **Mind $x$.** Text"),
        ("```{margin}\nText\n```", "> **Margin.** Text"),
        ("```{code-block} python\n{x}`y`\n```", "```python\n{x}`y`\n```"),
        (
            "```{figure} pic.png\n:name: fig\n:alt: A curve.\nCurves of {cite:t}`li`.\n```",
            "![A curve.](pic.png)\n\n**Fig. 1.1** Curves of Li and Liang (2018).",
        ),
        ("$$\na=b\n$$ (eq-a)", "$$\na=b\n\\tag{1.7}\n$$"),
        ("```{math}\n:label: eq-a\na=b\n```", "$$\na=b\n\\tag{1.7}\n$$"),
        ("$$ a=b $$", "$$\n a=b \n$$"),
        ("$$\na\\\\b\n$$", "$$\n\\begin{split}a\\\\b\\end{split}\n$$"),
    ],
)
def test_blocks(source, text):
    assert plain(source) == text


def test_a_formula_in_a_quote_stands_on_one_line():
    display = "$$\n\\begin{aligned}\na&=b\\\\\nc&>d\n\\end{aligned}\n$$ (eq-a)"
    source = f":::{{prf:theorem}} Main\n:label: thm\nLet $a\n+b$.\n\n{display}\n:::"
    formula = r"> $$ \begin{aligned} a&=b\\ c&>d \end{aligned} \tag{1.7} $$"
    assert plain(source) == f"> **Theorem 1.2 (Main).** Let $a +b$.\n>\n{formula}"


@pytest.mark.parametrize(
    "source",
    [
        "`{eq}` in code, ``a `b` {x}`` too",
        "```python\nx = {'a': 1}\n:::{prf:theorem}\n```",
        r"math $x_{[a](b)}$ and $\{[^1]\}$ stays",
        "$$\n\\text{see }[a](b)\n$$",
        "- a list\n  - of $x$\n\n| a | b |\n|---|---|\n| 1 | 2 |",
        "![A picture](pic.png)",
        r"costs \$5 and \$6",
    ],
)
def test_code_formulas_and_plain_text_stay(source):
    assert plain(source) == source


def test_gated_solutions_span_cells():
    twin = lecture()
    start = twin.convert(":::{solution-start} ex\n:class: dropdown\n:::")
    assert start == "---\n\n**Solution to Exercise 1.1 (The $N$ kinks).**"
    with pytest.raises(Unconvertible, match="no end of the solution to Exercise 1.1"):
        twin.finish()
    assert twin.convert(":::{solution-end}\n:::") == "*End of the solution to Exercise 1.1.*\n\n---"
    twin.finish()


def test_gated_exercises_too():
    twin = lecture()
    start = twin.convert(":::{exercise-start} x\n:label: ex\n:::\n\nFind $y$.")
    assert start == "---\n\n**Exercise 1.1 (The $N$ kinks).**\n\nFind $y$."
    assert twin.convert(":::{exercise-end}\n:::") == "*End of Exercise 1.1.*\n\n---"


def test_with_an_address_links_lead_to_the_site():
    twin = lecture("https://example.github.io/book")
    far = "[Proposition 2.1](https://example.github.io/book/chapters/1_a/2_there.html#far)"
    assert twin.convert("{prf:ref}`far`, {prf:ref}`thm`") == f"{far}, Theorem 1.2"
    assert (
        twin.convert("[](2_there.ipynb)")
        == "[There](https://example.github.io/book/chapters/1_a/2_there.html)"
    )


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (":::{tabs}\nx\n:::", "the directive 'tabs' is not known"),
        ("{unheard}`of`", "the role 'unheard' is not known"),
        ("{cite:alp}`li`", "the role 'cite:alp' is not known"),
        ("{glue:figure}`x`", "the role 'glue:figure' is not known"),
        ("{prf:ref}`nowhere`", "the site has no label 'nowhere'"),
        ("{eq}`nowhere`", "the site has no label"),
        ("{cite:t}`nobody`", "no reference is called"),
        ("{glue:text}`nothing`", "no cell of chapters/1_a/1_here glues 'nothing'"),
        ("[x](3_lost.ipynb)", "a link leads nowhere"),
        ("{numref}`sec`", "what has no number"),
        ("{ref}`fig`", "write numref"),
        (":::{prf:theorem} T\nx\n:::", "without a label"),
        (":::{prf:theorem} T\n:label: thm\nx", "a fence is not closed"),
        (":::\nx\n:::", "a colon fence without a directive"),
        ("$$\nx", "a formula is not closed"),
        ("$$\nx % why\n$$", "a comment in a formula"),
        (":::{solution-end}\n:::", "without a start"),
        ("- item\n  :::{note}\n  x\n  :::", "MyST is left over"),
        ("- item\n  $$x$$ (eq-a)", "MyST is left over"),
        ("Term\n: what it is", "MyST is left over"),
        ("{{ substituted }}", "MyST is left over"),
        ("\\begin{align}x\\end{align}", "MyST is left over"),
        ("![x](y.png){.wide}", "MyST is left over"),
    ],
)
def test_what_has_no_plain_form_is_an_error_that_says_where(source, problem):
    with pytest.raises(Unconvertible) as error:
        plain(f"Before.\n\n{source}")
    assert problem in str(error.value)
    assert str(error.value).startswith(f"{HERE}.ipynb: ") and "near: " in str(error.value)


def test_a_gate_in_a_gate_is_an_error():
    twin = lecture()
    twin.convert(":::{solution-start} ex\n:::")
    with pytest.raises(Unconvertible, match="before the end of the solution"):
        twin.convert(":::{solution-start} ex\n:::")


@pytest.mark.parametrize(
    "text",
    [
        ":::",
        "> :::{note}",
        "```{note}",
        "(label)=",
        ":label: x",
        "{eq}`x`",
        "a[^1]",
        "[x](#y)",
        "[](y.md)",
        "[x](y.md#z)",
        "$$x$$ (eq)",
        "+++",
        "% comment",
    ],
)
def test_left_over_markup_is_found(text):
    assert left_over(f"words\n{text}\nwords")
    assert left_over(f"`{text}`") is None or "`" in text
    assert left_over(f"```\n{text}\n```") is None or text.startswith("```")


@pytest.mark.parametrize(
    ("stored", "form", "shown"),
    [
        ("'12%'", "", "12%"),
        ("0.00", "", "0.0"),
        ("0.126", ".2f", "0.13"),
        ("many", "s", "many"),
        ("7", "", "7"),
    ],
)
def test_glued_values_are_shown_as_on_the_site(stored, form, shown):
    assert formatted(stored, form) == shown

"""What the site needs beyond Jupyter Book: ledger, foldable proofs, descriptions, buttons, repairs.

A Sphinx extension. The repairs are of Sphinx 7.4, sphinx-proof 0.4 and sphinx-book-theme 1.1.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean

from docutils import nodes
from docutils.parsers.rst import directives
from pybtex.database import Entry
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from overparam_lib.notebook import claims_in
from tools import notebooks
from tools.repository import address, theme_options

_LONGEST_DESCRIPTION = 160
_COLUMNS = {"Claim": 46, "Measured": 18, "Bound": 16, "Source": 20}


class ClaimsLedger(SphinxDirective):
    """The directive ``claims-ledger``: a table for each lecture, read from its stored outputs."""

    def run(self) -> list[nodes.Node]:
        """Return the tables."""
        return [node for path in notebooks(Path(self.env.srcdir)) for node in self._lecture(path)]

    def _lecture(self, path: Path) -> list[nodes.Node]:
        self.env.note_dependency(str(path))
        document = path.relative_to(self.env.srcdir).with_suffix("").as_posix()
        rows = [self._row(claim) for claim in claims_in(path)]
        if not rows or document not in self.env.found_docs:
            return []
        heading = nodes.rubric("", "", self._link(document), classes=["ledger-lecture"])
        return [heading, _table(list(_COLUMNS), list(_COLUMNS.values()), rows)]

    def _row(self, claim: dict) -> list[list[nodes.Node]]:
        statement, _ = self.state.inline_text(claim["statement"], self.lineno)
        name = nodes.literal("", claim["id"], classes=["ledger-id"])
        return [
            [nodes.paragraph("", "", *statement), nodes.paragraph("", "", name)],
            [nodes.paragraph("", measured_text(claim["measured"]))],
            [nodes.paragraph("", bound_text(claim))],
            [nodes.paragraph("", claim["source"])],
        ]

    def _link(self, document: str) -> nodes.Node:
        target = addnodes.pending_xref(
            "",
            nodes.inline(),
            refdomain="std",
            reftype="doc",
            reftarget=f"/{document}",
            refexplicit=False,
            refwarn=True,
            refdoc=self.env.docname,
        )
        return target


class Proof(SphinxDirective):
    """The directive ``prf:proof``, in place of sphinx-proof's, which cannot be folded.

    Its title is ``Proof``, or the argument, such as ``Proof of the upper bound``. With the class
    ``dropdown`` it is folded below its title, else the title runs into the first paragraph.
    """

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec = {"class": directives.class_option}

    def run(self) -> list[nodes.Node]:
        """Return the proof."""
        classes = ["proof", "book-proof", *self.options.get("class", [])]
        proof = nodes.admonition("", classes=classes, ids=[f"proof-{self.env.new_serialno('proof')}"])
        self.state.nested_parse(self.content, self.content_offset, proof)
        title, _ = self.state.inline_text(self.arguments[0] if self.arguments else "Proof", self.lineno)
        if "dropdown" in classes:
            proof.insert(0, nodes.title("", "", *title))
        else:
            self._run_in(proof, nodes.strong("", "", *title, nodes.Text(".")))
        return [proof]

    def _run_in(self, proof: nodes.Element, title: nodes.Node) -> None:
        if not proof.children or not isinstance(proof[0], nodes.paragraph):
            proof.insert(0, nodes.paragraph())
        proof[0].insert(0, nodes.Text(" "))
        proof[0].insert(0, title)


def number_text(value: float) -> str:
    """Return a number with three significant digits, in the book's typography."""
    text = f"{value:.3g}"
    if match := re.fullmatch(r"(-?[\d.]+)e([+-]\d+)", text):
        text = f"{match[1]}·10{str(int(match[2])).translate(_SUPERSCRIPTS)}"
    return text.replace("-", "−")


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def measured_text(figures: Sequence[float]) -> str:
    """Return the mean, and over several seeds the range."""
    mean = number_text(fmean(figures))
    if len(figures) == 1:
        return mean
    return f"{mean} ({number_text(min(figures))} to {number_text(max(figures))}, {len(figures)} figures)"


def bound_text(claim: dict) -> str:
    """Return what a claim demands, in words."""
    words = {"at_most": "at most", "at_least": "at least", "expected": "expected"}
    text = f"{words[claim['kind']]} {number_text(claim['bound'])}"
    slack = claim["atol"] + claim["rtol"] * abs(claim["bound"])
    return f"{text} ± {number_text(slack)}" if claim["kind"] == "expected" else text


def description_of(document: nodes.document, metadata: dict) -> str:
    """Return a page's description: its metadata's, else the beginning of its first paragraph."""
    if given := metadata.get("description"):
        return given
    paragraphs = (p for p in document.findall(nodes.paragraph) if isinstance(p.parent, nodes.section))
    text = " ".join(next((p.astext() for p in paragraphs), "").split())
    if len(text) <= _LONGEST_DESCRIPTION:
        return text
    return text[:_LONGEST_DESCRIPTION].rsplit(" ", 1)[0].rstrip(",;:.") + " …"


def add_description(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Put a description into every page's head."""
    text = description_of(doctree, app.env.metadata.get(page, {})) if doctree else ""
    text = text or f"{context.get('title') or page}: a page of the executable book {app.config.html_title}"
    context["metatags"] = (
        context.get("metatags", "") + f'\n<meta name="description" content="{escape(text)}">'
    )


def keep_one_of_each_script(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Drop scripts added twice: the second declaration of a constant is an error in the console.

    The address of live code's script is kept only on pages with its button.
    """
    kept = {(str(js.filename or ""), js.attributes.get("body")): js for js in context["script_files"]}
    context["script_files"] = [
        js
        for js in kept.values()
        if context.get("use_thebe") or "THEBE_JS_URL" not in (js.attributes.get("body") or "")
    ]


def give_bodies_their_own_ids(app: Sphinx, doctree: nodes.document) -> None:
    """Number the ids of the bodies of theorems, exercises and solutions, which are one id for all."""
    for kind in ("proof-content", "exercise-content", "solution-content"):
        bodies = [node for node in doctree.findall(nodes.Element) if kind in node.get("ids", ())]
        for number, node in enumerate(bodies):
            node["ids"] = [f"{kind}-{number}"]


def tell_years_apart(app: Sphinx, env: BuildEnvironment, documents: list[str]) -> None:
    """Tell them apart where they are cited and listed on the site."""
    give_years_letters(env.get_domain("cite").bibdata.data.entries)


def give_years_letters(entries: Mapping[str, Entry]) -> None:
    """Make two papers of the same authors and year 2019a and 2019b."""
    alike = defaultdict(list)
    for _, entry in sorted(entries.items()):
        names = [" ".join(person.last_names) for person in entry.persons["author"]]
        shown = tuple(names) if len(names) < 3 else (names[0], "et al.")
        alike[shown, entry.fields["year"]].append(entry)
    for (_, year), entries in alike.items():
        if len(entries) > 1 and year.isdigit():
            for letter, entry in zip("abcdefgh", entries, strict=False):
                entry.fields["year"] = year + letter


def skip_tuple_fields(app: Sphinx, what: str, name: str, obj: object, skip: bool, options) -> bool | None:
    """Leave a named tuple's fields to its docstring: Python documents each as an alias of its number."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def set_address(app: Sphinx, config) -> None:
    """Turn on the buttons that need the repository's address, where there is one."""
    config.html_theme_options = {**config.html_theme_options, **theme_options(address())}


def setup(app: Sphinx) -> dict:
    """Register all of it."""
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx_proof")
    app.setup_extension("tools.pages")
    app.add_directive("claims-ledger", ClaimsLedger)
    app.add_directive_to_domain("prf", "proof", Proof, override=True)
    app.connect("config-inited", set_address, priority=100)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    app.connect("env-before-read-docs", tell_years_apart)
    app.connect("doctree-read", give_bodies_their_own_ids)
    app.connect("html-page-context", keep_one_of_each_script, priority=900)
    app.connect("html-page-context", add_description)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _table(head: list[str], widths: list[int], rows: list[list[list[nodes.Node]]]) -> nodes.Node:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in widths), cols=len(head))
    titles = [[nodes.paragraph("", title)] for title in head]
    group += nodes.thead("", _table_row(titles))
    group += nodes.tbody("", *map(_table_row, rows))
    return nodes.table("", group, classes=["ledger"])


def _table_row(cells: list[list[nodes.Node]]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", *content) for content in cells))

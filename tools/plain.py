r"""The plain form of the book's Markdown, for Jupyter and Colab, which show directives and roles raw.

Theorems, exercises and proofs become block quotes, what folds becomes ``<details>``; references, glued
numbers and citations become text, or links to the site. What is not known to have a plain form is an
error that names the file and the text near it.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from posixpath import normpath, relpath

from docutils.nodes import make_id

from tools import ROOT

_THEOREMS = (
    "algorithm assumption axiom conjecture corollary definition example lemma observation proposition"
    " remark theorem"
)
_NUMBERED = {*(f"prf:{kind}" for kind in _THEOREMS.split()), "exercise"}
_ADMONITIONS = {"note", "tip", "hint", "important", "warning", "caution", "attention", "seealso"}
_FENCE = re.compile(r"^(?P<fence>:{3,}|`{3,}|~{3,})\s*(?:\{(?P<name>[^}\s]+)\})?\s*(?P<rest>.*)$")
_OPTION = re.compile(r"^:([\w-]+):\s*(.*)$")
_LABEL = re.compile(r"^\([^()\s]+\)=\s*$")
_MATH_END = re.compile(r"\$\$\s*(?:\((?P<label>[^()\s]+)\))?\s*$")
# Inline, in this order: a role, code, a formula, a link, a note's mark.
_INLINE = re.compile(
    r"\{(?P<role>[a-z][\w:.-]*)\}(?P<tick>`+)(?P<content>.+?)(?P=tick)(?!`)"
    r"|(?P<code>(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"
    r"|(?P<math>(?<!\\)\$\$.+?(?<!\\)\$\$|(?<![\\$])\$(?!\s).+?(?<![\\\s])\$(?!\d))"
    r"|(?P<image>!?)\[(?P<words>[^\[\]]*)\]\((?P<target>[^()\s]*)\)"
    r"|\[\^(?P<note>[\w-]+)\](?!:)",
    re.S,
)
_NOTE = re.compile(r"^\[\^([\w-]+)\]:\s+", re.M)
# What no reader of a twin should see. Looked for outside code and formulas.
_LEFT = re.compile(
    r"^\s*(?:>\s*)*(?::{3,}|[`~]{3,}\s*\{|\([^()\s]+\)=\s*$|\+\+\+|%\s|:\s+\S|:[\w-]+:(?:\s|$))"
    r"|\{[a-z][\w:.-]*\}`|\{\{|\[\^|\]\(#|\[\]\(|\]\([^()\s]*\.(?:md|ipynb)#|\$\$\s*\([\w:-]+\)"
    r"|[\])`]\{[.#]?[\w-]|^<cite|\\begin\{",
    re.M,
)


def _nothing(page: str, key: str) -> str:
    raise KeyError(key)


class Unconvertible(SystemExit):
    """A construct that has no plain form here."""


@dataclass(frozen=True)
class Target:
    """What a label of the site is: its number or title as the site shows it, and its place."""

    text: str
    page: str
    anchor: str
    title: str = ""
    numbered: bool = True

    @property
    def full(self) -> str:
        """Number and title, as ``Exercise 1.1 (The kink and the angle)``."""
        return f"{self.text} ({self.title})" if self.title else self.text


@dataclass(frozen=True)
class Book:
    """What the built site knows: labels, titles of pages, citations; and where it is published."""

    targets: Mapping[str, Target]
    pages: Mapping[str, Target]
    citations: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # authors, year
    site: str | None = None

    def target(self, label: str) -> Target:
        """Return what a label means; KeyError if the site has none such."""
        return self.targets.get(label) or self.targets[make_id(label)]


@dataclass
class Lecture:
    """One notebook on its way to a twin."""

    book: Book
    page: str  # as "chapters/2_x/3_y"
    glued: Callable[[str, str], str] = _nothing  # what a page's cells glue under a key, or KeyError
    notes: dict[str, int] = field(default_factory=dict)
    open_gate: str = ""

    def fail(self, problem: str, near: str) -> Unconvertible:
        """Return the error that names the file and what was found there."""
        return Unconvertible(f"{self.page}.ipynb: {problem}, near: {' '.join(near.split())[:90]}")

    def convert(self, source: str) -> str:
        """Return a Markdown cell's plain form."""
        plain = self._blocks(source.split("\n"))
        if found := left_over(plain):
            raise self.fail("MyST is left over", found)
        return plain

    def finish(self) -> None:
        """Raise if something that goes on over several cells has no end."""
        if self.open_gate:
            raise self.fail(f"no end of {self.open_gate}", "the last cell")

    # Blocks

    def _blocks(self, lines: list[str]) -> str:
        done: list[str] = []
        prose: list[str] = []

        def flush() -> None:
            if prose:
                done.append(self._inline("\n".join(prose)))
                prose.clear()

        position = 0
        while position < len(lines):
            line = lines[position]
            if fence := _FENCE.match(line):
                flush()
                end = self._end_of_fence(lines, position, fence["fence"])
                block = lines[position + 1 : end]
                if fence["name"]:
                    done.append(self._directive(fence["name"], fence["rest"].strip(), block))
                elif fence["fence"][0] == ":":
                    raise self.fail("a colon fence without a directive", line)
                else:
                    done.append("\n".join(lines[position : end + 1]))
                position = end + 1
            elif line.startswith("$$"):
                flush()
                end = self._end_of_math(lines, position)
                done.append(self._display(lines[position : end + 1]))
                position = end + 1
            elif _LABEL.match(line):
                flush()
                position += 1
            elif line.startswith("% ") or line.strip() == "%" or line.startswith("+++"):
                position += 1  # a comment, or the break between cells
            else:
                prose.append(line)
                position += 1
        flush()
        return re.sub(r"\n{3,}", "\n\n", "\n".join(done)).strip("\n")

    def _end_of_fence(self, lines: list[str], start: int, fence: str) -> int:
        closing = re.compile(rf"^{re.escape(fence[0])}{{{len(fence)},}}\s*$")
        nested = 0
        for position in range(start + 1, len(lines)):
            inner = _FENCE.match(lines[position])
            if closing.match(lines[position]):
                if not nested:
                    return position
                nested -= 1
            elif inner and inner["name"] and inner["fence"] == fence:
                nested += 1  # the site's parser would close the outer one: an author's mistake there
        raise self.fail("a fence is not closed", lines[start])

    def _end_of_math(self, lines: list[str], start: int) -> int:
        if _MATH_END.search(lines[start][2:]):
            return start
        for position in range(start + 1, len(lines)):
            if _MATH_END.search(lines[position]):
                return position
        raise self.fail("a formula is not closed", lines[start])

    def _display(self, lines: list[str]) -> str:
        text = "\n".join(lines).rstrip()
        end = _MATH_END.search(text, 2)
        return self._formula(text[2 : end.start()].strip("\n"), end["label"])

    def _formula(self, formula: str, label: str | None) -> str:
        if r"\\" in formula and r"\begin" not in formula:
            formula = rf"\begin{{split}}{formula}\end{{split}}"  # as Sphinx does
        if label:
            formula += f"\n\\tag{{{self._equation(label).text.strip('()')}}}"
        if re.search(r"(?<!\\)%", formula):
            raise self.fail("a comment in a formula", formula)
        return f"$$\n{formula}\n$$"

    def _directive(self, name: str, argument: str, block: list[str]) -> str:
        options, body = _options(block)
        folded = "dropdown" in options.get("class", "").split()
        if name in _NUMBERED:
            return self._box(self._numbered(name, argument, options).full, body, folded)
        if name == "prf:proof":
            return self._box(self._inline(argument) or "Proof", body, folded)
        if name == "solution":
            return self._box(f"Solution to {self._target(argument, name).full}", body, folded)
        if name in ("solution-start", "exercise-start"):
            return self._gate(name, argument, options, body)
        if name in ("solution-end", "exercise-end"):
            opened, self.open_gate = self.open_gate, ""
            if not opened:
                raise self.fail(f"{name} without a start", name)
            return f"*End of {opened}.*\n\n---"
        if name == "math":
            return self._formula("\n".join([argument, *body]).strip(), options.get("label"))
        if name in ("figure", "image"):
            return self._figure(argument, options, body)
        if name in ("code-block", "code"):
            return "\n".join([f"```{argument}", *body, "```"])
        if name in ("admonition", "dropdown", "margin", "topic", "sidebar") or name in _ADMONITIONS:
            words = self._inline(argument) if argument and name not in _ADMONITIONS else name.capitalize()
            text = body if not argument or name not in _ADMONITIONS else [argument, *body]
            return self._box(words, text, folded or name == "dropdown")
        raise self.fail(f"the directive {name!r} is not known", f"{{{name}}} {argument}")

    def _numbered(self, name: str, argument: str, options: dict[str, str]) -> Target:
        if "nonumber" in options:
            kind = name.rpartition(":")[2].partition("-")[0].capitalize()
            return Target(kind, self.page, "", self._inline(argument))
        if "label" not in options:
            raise self.fail(f"a {name} without a label, so its number cannot be looked up", argument or name)
        return self._target(options["label"], f"{name} {argument}")

    def _box(self, lead: str, body: list[str], folded: bool) -> str:
        text = self._blocks(body)
        if folded:  # Markdown inside is Markdown only between empty lines
            return f"\n<details>\n<summary><b>{lead}</b></summary>\n\n{text}\n\n</details>\n"
        # A formula on one line: JupyterLab takes the quote's marks between its lines for "greater than".
        text = _INLINE.sub(lambda m: " ".join(m[0].split()) if m["math"] else m[0], text)
        runs_in = text and not re.match(r"\$\$|[-*+] |\d+\. |[>|`]|</?details", text)
        text = f"**{lead}.**{' ' if runs_in else chr(10) * 2}{text}".rstrip()
        return "\n" + "\n".join(f"> {line}".rstrip() for line in text.split("\n")) + "\n"

    def _gate(self, name: str, argument: str, options: dict[str, str], body: list[str]) -> str:
        """The beginning of an exercise or solution that spans cells: those cannot be folded."""
        if name == "solution-start":
            target, lead, goes_on = self._target(argument, name), "Solution to ", "the solution to "
        else:
            target, lead, goes_on = self._numbered(name, argument, options), "", ""
        if self.open_gate:
            raise self.fail(f"{name} before the end of {self.open_gate}", argument)
        self.open_gate = goes_on + target.text
        return f"\n---\n\n**{lead}{target.full}.**\n\n{self._blocks(body)}".rstrip() + "\n"

    def _figure(self, source: str, options: dict[str, str], body: list[str]) -> str:
        picture = f"![{options.get('alt', '')}]({source})"
        label = options.get("name") or options.get("label")
        caption = self._inline("\n".join(body).strip())
        lead = f"**{self._target(label, source).text}** " if label else ""
        return f"{picture}\n\n{lead}{caption}".rstrip()

    # What stands in a line

    def _inline(self, text: str) -> str:
        text = _NOTE.sub(lambda m: f"<sup>{self._note(m[1])}</sup> ", text)

        def replace(match: re.Match) -> str:
            if match["role"]:
                return self._role(match["role"], match["content"])
            if match["note"]:
                return f"<sup>{self._note(match['note'])}</sup>"
            if match["target"] is not None and not match["image"]:
                return self._link(match["words"], match["target"])
            return match[0]

        # Paragraph by paragraph: no formula or code goes on beyond an empty line.
        return "".join(_INLINE.sub(replace, part) for part in re.split(r"(\n\s*\n)", text))

    def _note(self, name: str) -> int:
        return self.notes.setdefault(name, len(self.notes) + 1)

    def _role(self, role: str, content: str) -> str:
        if role.startswith("glue"):
            return self._glue(role, content)
        if role.startswith("cite"):
            return self._cite(role, content)
        words, label = _words_and_label(content)
        if role == "math":
            return f"${content}$"
        if role in ("eq", "math:numref"):
            return self._leading(words or self._equation(label).text, self._equation(label))
        if role in ("prf:ref", "ref", "numref"):
            target = self._target(label, content)
            if role == "numref" and not target.numbered:
                raise self.fail("a numref to what has no number", content)
            if role == "ref" and target.text.startswith("Fig") and not words:
                raise self.fail("a ref to a figure, which shows its caption: write numref", content)
            shown = target.text if not words else _fill(words, target)
            return self._leading(shown, target)
        if role == "doc":
            return self._link(words, label)
        if role in ("sup", "sub", "kbd", "abbr"):
            return f"<{role}>{content}</{role}>"
        if role in ("code", "func", "class", "meth", "mod", "py:func", "py:class", "py:meth", "py:mod"):
            return f"`{(words or label.removeprefix('~').rpartition('.')[2])}`"
        raise self.fail(f"the role {role!r} is not known", f"{{{role}}}`{content}`")

    def _glue(self, role: str, content: str) -> str:
        if role not in ("glue", "glue:text", "glue:md"):
            raise self.fail(f"the role {role!r} is not known", content)
        page, separator, rest = content.rpartition("::")
        key, _, form = rest.partition(":")
        source = self._resolve(page) if separator else self.page
        try:
            return formatted(self.glued(source, key), form)
        except KeyError:
            raise self.fail(f"no cell of {source} glues {key!r}", content) from None

    def _cite(self, role: str, content: str) -> str:
        form = role.partition(":")[2] or "p"
        names = [key.strip() for key in content.split(",")]
        if missing := [name for name in names if name not in self.book.citations]:
            raise self.fail(f"no reference is called {missing}", content)
        works = sorted(self.book.citations[name] for name in names)  # as the site does
        if form == "t":
            return ", ".join(f"{who} ({year})" for who, year in works)
        if form == "p":
            return f"({'; '.join(f'{who}, {year}' for who, year in works)})"
        if form in ("author", "year", "yearpar"):
            text = ", ".join(work[form != "author"] for work in works)
            return f"({text})" if form == "yearpar" else text
        raise self.fail(f"the role {role!r} is not known", content)

    def _link(self, words: str, target: str) -> str:
        """A link to a page, or a label, of the book leads to the site; without an address, to the file."""
        if re.match(r"[a-z]+:", target) or target.startswith("//"):
            return f"[{words or target}]({target})"
        path, _, anchor = target.partition("#")
        if not path:
            found = self._target(anchor, target)
            return self._leading(words or found.text, found)
        page = self._resolve(path)
        if page not in self.book.pages:
            if (ROOT / normpath(PurePosixPath(self.page).parent / path)).is_file():
                return f"[{words or path}]({target})"
            raise self.fail("a link leads nowhere", f"[{words}]({target})")
        found = self.book.pages[page]
        return self._leading(words or found.text, Target(found.text, page, anchor))

    def _leading(self, words: str, target: Target) -> str:
        if target.page == self.page:
            return words
        if self.book.site:
            anchor = f"#{target.anchor}" if target.anchor else ""
            return f"[{words}]({self.book.site}/{target.page}.html{anchor})"
        source = f"{target.page}.ipynb"
        source = source if (ROOT / source).is_file() else f"{target.page}.md"
        return f"[{words}]({relpath(source, PurePosixPath(self.page).parent)})"

    def _resolve(self, path: str) -> str:
        there = path.lstrip("/") if path.startswith("/") else str(PurePosixPath(self.page).parent / path)
        return re.sub(r"\.(?:md|ipynb|html)$", "", normpath(there))

    def _target(self, label: str, near: str) -> Target:
        try:
            return self.book.target(label)
        except KeyError:
            raise self.fail(f"the site has no label {label!r}", near) from None

    def _equation(self, label: str) -> Target:
        return self._target(f"equation-{make_id(label)}", label)


def formatted(stored: str, form: str = "") -> str:
    """Return a glued value as the site shows it: its text evaluated, and in the form that is asked for."""
    try:
        value = literal_eval(stored)
    except (ValueError, SyntaxError):
        value = stored
    return str(value) if form in ("", "s") else format(value, form)


def left_over(plain: str) -> str | None:
    """Return the text near what a reader of a twin should not see; None if there is nothing such."""
    text = re.sub(r"^(?:> ?)*(`{3,}|~{3,})[\w+-]*\n.*?^(?:> ?)*\1\s*$", "□", plain, flags=re.M | re.S)
    text = _INLINE.sub(_masked, text)
    found = _LEFT.search(text)
    return text[found.start() : found.start() + 90] if found else None


def _masked(match: re.Match) -> str:
    if match["math"]:
        return "$$" if match["math"].startswith("$$") else "□"  # a display may have a label after it
    return "□" if match["code"] else match[0]


def _options(block: list[str]) -> tuple[dict[str, str], list[str]]:
    """Split a directive's lines into its options and its content."""
    lines, options = list(block), {}
    if lines and lines[0].strip() == "---":
        end = lines.index("---", 1)
        options = dict(line.split(":", 1) for line in lines[1:end])
        return {key.strip(): value.strip() for key, value in options.items()}, lines[end + 1 :]
    while lines and (option := _OPTION.match(lines[0])):
        options[option[1]] = option[2].strip()
        lines.pop(0)
    return options, lines


def _words_and_label(content: str) -> tuple[str, str]:
    explicit = re.fullmatch(r"(.*?)\s*<([^<>]+)>", content, re.S)
    return (explicit[1], explicit[2]) if explicit else ("", content)


def _fill(words: str, target: Target) -> str:
    """Put the number into words such as ``Figure %s`` or ``step {number}``."""
    number = target.text.rpartition(" ")[2]
    return words.replace("%s", number).replace("{number}", number).replace("{name}", target.title)

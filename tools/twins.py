"""Write the tree of the branch ``launch`` to ``_build/launch``: what Colab and Binder open.

    python -m tools.twins      (the built site must be there: `make twins` sees to it)

It holds the tracked files as they are in the work tree, ``.github`` aside, each lecture replaced by its
plain twin: the same cells, metadata and outputs, the Markdown without the book's directives and roles
(:mod:`tools.plain`), with the numbers that the built site shows. With the repository's address known
(:mod:`tools.repository`) a twin's first lines lead to its page, and on Colab its setup cell installs the
library at the tag ``v<version>``, or at the tag or commit that the environment's ``RELEASE`` names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode
from pybtex.database import parse_file
from sphinx.util.inventory import InventoryFile

from overparam_lib import __version__
from tools import ROOT, SITE, notebooks
from tools.plain import Book, Lecture, Target
from tools.repository import address, site_address, with_badges
from tools.site import give_years_letters

LAUNCH = ROOT / "_build" / "launch"
_EMPTY_LIBRARY = re.compile(r'^LIBRARY = ""', re.M)


def read_book(site: Path = SITE, references: Path = ROOT / "references.bib", url: str | None = None) -> Book:
    """Return what the built site knows about labels, pages and citations."""
    if not (site / "objects.inv").is_file():
        raise SystemExit(f"there is no site in {site}: run `make book` first")
    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, uri: uri)
    pages = {name: Target(item[3], name, "") for name, item in inventory["std:doc"].items()}
    targets = {}
    for label, (_, _, uri, title) in inventory["std:label"].items():
        page, _, anchor = uri.partition("#")
        targets[label] = Target(title, page.removesuffix(".html"), anchor, numbered=False)
    for page in pages:
        targets |= numbered_things(page, (site / f"{page}.html").read_text("utf-8"))
    return Book(targets, pages, citations(references), url)


def numbered_things(page: str, html: str) -> dict[str, Target]:
    """Return a page's theorems, exercises, figures and equations by their ids, as the page numbers them."""
    found = {}
    for tag in BeautifulSoup(html, "html.parser").select("article [id]"):
        if tag["id"].startswith("equation-") and (number := tag.select_one(".eqno")):
            found[tag["id"]] = Target(number.get_text().rstrip("#"), page, tag["id"])
        elif {"proof", "exercise"} & set(tag.get("class", ())) or tag.name == "figure":
            if number := tag.select_one(".caption-number"):
                found[tag["id"]] = Target(number.get_text().strip(), page, tag["id"], _title(number))
    return found


def page_number(page: str, site: Path = SITE) -> str:
    """Return the number before a page's title, such as ``1.1. ``, or nothing."""
    soup = BeautifulSoup((site / f"{page}.html").read_text("utf-8"), "html.parser")
    number = soup.select_one("article h1 .section-number")
    return number.get_text().strip() + " " if number else ""


def citations(references: Path) -> dict[str, tuple[str, str]]:
    """Return authors and year of each reference, as the site cites it."""
    entries = parse_file(str(references)).entries
    give_years_letters(entries)
    return {key: (_authors(entry.persons["author"]), entry.fields["year"]) for key, entry in entries.items()}


def twin(path: Path, book: Book, library: str = "", root: Path = ROOT, number: str = "") -> NotebookNode:
    """Return a lecture's plain twin."""
    notebook = nbformat.read(path, as_version=4)
    page = path.relative_to(root).with_suffix("").as_posix()
    lecture = Lecture(book, page, lambda source, key: glued(root / f"{source}.ipynb")[key])
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = lecture.convert(cell.source)
        elif "figure" in cell.metadata.get("mystnb", {}):
            raise lecture.fail("a caption in a cell's metadata, which Jupyter does not show", cell.source)
    lecture.finish()
    _introduce(notebook.cells[0], number, f"{book.site}/{page}.html" if book.site else "")
    _name_library(lecture, notebook, library)
    nbformat.validate(notebook)
    return notebook


def glued(path: Path) -> dict[str, str]:
    """Return the stored texts of what a notebook glues, by name."""
    outputs = (o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", ()))
    found = ((o.metadata.scrapbook, o.data) for o in outputs if "scrapbook" in o.get("metadata", {}))
    return {about.name: data.get(f"{about.mime_prefix}text/plain", "") for about, data in found}


def library_to_install(repository: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return what pip shall install on Colab; nothing where no address is known."""
    release = environ.get("RELEASE", "").strip() or f"v{__version__}"
    return f"git+{repository}@{release}" if repository else ""


def tracked_files(root: Path = ROOT) -> list[str]:
    """Return the paths that git tracks, those deleted in the work tree left out."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:
        raise SystemExit(f"the launch tree is made of the files that git tracks: {listed.stderr.strip()}")
    return [name for name in listed.stdout.split("\0") if name and (root / name).is_file()]


def write_tree(folder: Path, repository: str | None, root: Path = ROOT, environ=os.environ) -> list[str]:
    """Write the tree anew, and return the paths of its twins."""
    book = read_book(url=site_address(repository) if repository else None)
    library = library_to_install(repository, environ)
    twins = {}  # all of them before the first is written: an error leaves no half tree
    for path in notebooks(root):
        name = path.relative_to(root).as_posix()
        number = page_number(name.removesuffix(".ipynb"))
        twins[name] = nbformat.writes(twin(path, book, library, root, number)) + "\n"
    shutil.rmtree(folder, ignore_errors=True)
    for name in tracked_files(root):
        if name.startswith(".github/"):
            continue  # a workflow may not push workflows, and the branch needs none
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name in twins:
            (folder / name).write_text(twins[name], "utf-8")
        else:
            shutil.copy2(root / name, folder / name)
    readme = folder / "README.md"
    readme.write_text(with_badges(readme.read_text("utf-8"), repository), "utf-8")
    return [name for name in twins if (folder / name).is_file()]


def main() -> int:
    """Write the tree, and say where it is and what its twins install."""
    repository = address()
    written = write_tree(LAUNCH, repository)
    print(f"{LAUNCH.relative_to(ROOT)}: {len(written)} plain twins among the tracked files")
    if repository:
        print(f"On Colab they install {library_to_install(repository)}")
    else:
        print("On Colab they install nothing: no repository address is known (REPOSITORY=…)")
    return 0


def _title(number: Tag) -> str:
    words = number.parent.get_text().strip().removeprefix(number.get_text().strip()).strip()
    words = words[1:-1] if words.startswith("(") and words.endswith(")") else words.rstrip("#")
    return re.sub(r"\\\((.+?)\\\)", r"$\1$", words)


def _authors(people: list) -> str:
    parts = [[*person.rich_prelast_names, *person.rich_last_names] for person in people]
    names = [" ".join(part.render_as("text") for part in name) for name in parts]
    if len(names) > 2:
        return f"{names[0]} et al."
    return " and ".join(names)


def _introduce(cell: NotebookNode, number: str, page: str) -> None:
    """Number the title, and lead to the page."""
    title, _, rest = cell.source.partition("\n")
    lead = f"\n\n*A plain copy of [this page of the book]({page}).*" if page else ""
    cell.source = f"{title.replace('# ', f'# {number}', 1)}{lead}\n{rest}"


def _name_library(lecture: Lecture, notebook: NotebookNode, library: str) -> None:
    cells = [cell for cell in notebook.cells if "setup-colab" in cell.metadata.get("tags", ())]
    if len(cells) != 1 or len(_EMPTY_LIBRARY.findall(cells[0].source)) != 1:
        raise lecture.fail('one cell tagged setup-colab with a line LIBRARY = "" is needed', "")
    cells[0].source = _EMPTY_LIBRARY.sub(f'LIBRARY = "{library}"', cells[0].source)


if __name__ == "__main__":
    sys.exit(main())

"""Lay out a new lecture, complete and running, to be replaced piece by piece.

    make new-lecture NAME=chapters/3_training_speed/1_linear_rate TITLE="A linear rate"

The layout is tools/template.ipynb. A file that exists is never touched.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tools import ROOT, notebooks

TEMPLATE = ROOT / "tools" / "template.ipynb"
_NAME = re.compile(r"chapters/(\d+_[a-z0-9_]+)/(\d+_[a-z0-9_]+?)(?:\.ipynb)?")
_DESCRIPTION = "Say here, in 50 to 160 characters, what this lecture is about: search engines show it."
_CHAPTER = """---
description: "Say here, in 50 to 160 characters, what this chapter is about: search engines show it."
---

# {title}

What the chapter is about, and what its lectures are:

- []({lecture}.ipynb)
"""


class Refused(Exception):
    """A lecture cannot be laid out like this; the message says what to do."""


def lay_out(name: str, title: str, root: Path = ROOT) -> list[Path]:
    """Write the lecture, and the page of its chapter if there is none; return the new files."""
    found = _NAME.fullmatch(name)
    if not found:
        raise Refused(f"NAME={name} must look like chapters/3_training_speed/1_linear_rate")
    if not title.strip():
        raise Refused('TITLE="..." is missing')
    chapter, stem = found.groups()
    path = root / "chapters" / chapter / f"{stem}.ipynb"
    if path.exists():
        raise Refused(f"{name} is already there")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_notebook(stem, title.strip()), indent=1, ensure_ascii=False) + "\n", "utf-8")
    page = path.parent / "index.md"
    if page.exists():
        return [path]
    page.write_text(_CHAPTER.format(title=_words(chapter), lecture=stem), "utf-8")
    return [path, page]


def setup_cell(path: Path) -> dict:
    """Return a lecture's cell tagged ``setup-colab``: all lectures have the same one."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return next(cell for cell in cells if "setup-colab" in cell["metadata"].get("tags", ()))


def main(name: str = "", title: str = "") -> int:
    """Lay out a lecture and say what comes next."""
    try:
        made = lay_out(name, title)
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 2
    lecture = made[0].relative_to(ROOT).with_suffix("")
    print("written:", *(path.relative_to(ROOT) for path in made))
    print("Next: add it to _toc.yml, as the other lectures are there:")
    print(f"      - file: {lecture.parent}/index\n        sections:\n          - file: {lecture}")
    print(f"then write it, and store its outputs: make execute LECTURE={lecture}.ipynb")
    return 0


def _notebook(stem: str, title: str) -> dict:
    notebook = json.loads(TEMPLATE.read_text("utf-8"))
    slug = "-".join(stem.split("_")[1:])
    notebook["metadata"]["description"] = _DESCRIPTION
    for cell in notebook["cells"]:
        cell["source"] = [line.replace("TITLE", title).replace("SLUG", slug) for line in cell["source"]]
        if "setup-colab" in cell["metadata"].get("tags", ()):
            cell["source"] = setup_cell(notebooks()[0])["source"]
    return notebook


def _words(folder: str) -> str:
    return " ".join(folder.split("_")[1:]).capitalize()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""The repository's web address: the one setting that the site's buttons follow.

It is the environment variable ``REPOSITORY``, else the address of a GitHub remote called ``origin``.
Run as a program, it says what the site was built with.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tools import ROOT, notebooks

LAUNCH_BRANCH = "launch"
_FORM = "https://github.com/OWNER/NAME"
_UNKNOWN = "no repository address is known."
_BADGES = r"\n<!-- badges -->\n.*?<!-- /badges -->\n"
_GITHUB = re.compile(
    r"(?:https://(?:[^@/]+@)?|ssh://git@|git@)github\.com[/:]([\w.-]+)/([\w.-]+?)(?:\.git)?/?"
)


def address(environ: Mapping[str, str] = os.environ, root: Path = ROOT) -> str | None:
    """Return the repository's ``https://github.com/…`` address, or None where none is known."""
    wanted = environ.get("REPOSITORY", "").strip()
    found = _GITHUB.fullmatch(wanted or _origin(root))
    if wanted and not found:
        raise SystemExit(f"REPOSITORY is {wanted!r}; it must look like {_FORM}")
    return f"https://github.com/{found[1]}/{found[2]}" if found else None


def theme_options(repository: str | None) -> dict:
    """Return the site theme's options that need the address: none without one."""
    if repository is None:
        return {}
    return {
        "repository_url": repository,
        # The branch of plain notebooks: Colab and Binder do not read the book's directives.
        "repository_branch": LAUNCH_BRANCH,
        "path_to_docs": "",
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "thebe": True,  # live code: fetched from a CDN when a reader asks for it, not before
        },
    }


def site_address(repository: str) -> str:
    """Return where GitHub publishes the repository's pages."""
    owner, name = repository.split("/")[-2:]
    host = f"{owner.lower()}.github.io"
    return f"https://{host}" if name.lower() == host else f"https://{host}/{name}"


def badges(repository: str, first_lecture: str) -> str:
    """Return the lines of Markdown that lead from the README to checks, site, Colab and Binder."""
    path = repository.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{path}/blob/{LAUNCH_BRANCH}/{first_lecture}"
    binder = f"https://mybinder.org/v2/gh/{path}/{LAUNCH_BRANCH}?urlpath=lab/tree/{first_lecture}"
    checks = f"{repository}/actions/workflows/test.yml"
    return "\n".join(
        (
            f"[![Checks]({checks}/badge.svg)]({checks})",
            f"[![Read the book](https://img.shields.io/badge/read-the_book-blue)]({site_address(repository)}/)",
            f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})",
            f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder})",
        )
    )


def with_badges(readme: str, repository: str | None) -> str:
    """Return a README with the badges of the repository below its title, in place of any others."""
    title, _, rest = re.sub(_BADGES, "", readme, flags=re.S).partition("\n")
    if repository is None:
        return f"{title}\n{rest}"
    first = notebooks()[0].relative_to(ROOT).as_posix()
    return f"{title}\n\n<!-- badges -->\n{badges(repository, first)}\n<!-- /badges -->\n{rest}"


def main(task: str = "") -> int:
    """Say what the site was built with, or write the badges into the README."""
    repository = address()
    if task == "badges":
        readme = ROOT / "README.md"
        readme.write_text(with_badges(readme.read_text("utf-8"), repository), "utf-8")
        print(f"README.md: badges of {repository}" if repository else f"README.md: no badges. {_UNKNOWN}")
    elif repository:
        print(f"Launch buttons lead to {repository}, branch {LAUNCH_BRANCH}.")
    else:
        print(f"Launch buttons are off: {_UNKNOWN} `make book REPOSITORY={_FORM}` turns them on.")
    return 0


def _origin(root: Path) -> str:
    command = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git: built from an archive
        return ""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""The repository's web address: the one setting that the site's buttons follow.

It is the environment variable ``REPOSITORY``, else the address of a GitHub remote called ``origin``.
Run as a program, it says what the site was built with.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tools import ROOT

_GITHUB = re.compile(
    r"(?:https://(?:[^@/]+@)?|ssh://git@|git@)github\.com[/:]([\w.-]+)/([\w.-]+?)(?:\.git)?/?"
)


def address(environ: Mapping[str, str] = os.environ, root: Path = ROOT) -> str | None:
    """Return the repository's ``https://github.com/…`` address, or None where none is known."""
    wanted = environ.get("REPOSITORY", "").strip()
    found = _GITHUB.fullmatch(wanted or _origin(root))
    if wanted and not found:
        raise SystemExit(f"REPOSITORY is {wanted!r}; it must look like https://github.com/OWNER/NAME")
    return f"https://github.com/{found[1]}/{found[2]}" if found else None


def theme_options(repository: str | None) -> dict:
    """Return the site theme's options that need the address: none without one."""
    if repository is None:
        return {}
    return {
        "repository_url": repository,
        # The branch of plain notebooks: Colab and Binder do not read the book's directives.
        "repository_branch": "launch",
        "path_to_docs": "",
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        },
    }


def _origin(root: Path) -> str:
    command = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git: built from an archive
        return ""


if __name__ == "__main__":
    here = address()
    print(
        f"Launch buttons lead to {here}, branch launch."
        if here
        else "Launch buttons are off: no repository address is known. "
        "`make book REPOSITORY=https://github.com/OWNER/NAME` turns them on."
    )

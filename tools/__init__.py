"""All that knows about chapters: running them, checking them, and building their site."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ROOT / "chapters"
SITE = ROOT / "_build" / "html"


def notebooks(root: Path = ROOT) -> list[Path]:
    """Return the lectures below a checkout's root, in the order of their chapters."""
    return sorted((root / "chapters").glob("*/*.ipynb"))

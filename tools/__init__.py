"""All that knows about chapters: running them, checking them, and building their site."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ROOT / "chapters"
SITE = ROOT / "_build" / "html"


def notebooks(root: Path = ROOT) -> list[Path]:
    """Return the lectures below a checkout's root, in the order of their chapters."""
    return sorted((root / "chapters").glob("*/*.ipynb"))


def find(name: str, among: list[Path]) -> list[Path]:
    """Return the notebooks that a name means: a path, a file name, its end, or ``all``."""
    if name == "all":
        return among
    if Path(name).is_file():
        return [Path(name).resolve()]
    stem = Path(name).stem
    return [p for p in among if p.stem == stem or p.stem.endswith(f"_{stem}")]

"""The library's floors: a module imports from the floors below its own, and none knows of a chapter."""

import ast
import re
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[1] / "overparam_lib"
MODULES = sorted(LIBRARY.rglob("*.py"))
FLOORS = (
    "runtime",
    "datasets",
    "networks",
    "kernels",
    "optim",
    "training",
    "theory",
    "plotting",
    "notebook",
    "__main__",
)


def floor(dotted: str) -> str:
    """The floor of a dotted name in the library; the package itself has none."""
    return (dotted.split(".") + [""])[1]


def imported(source: str, package: str) -> set[str]:
    """The dotted names of the library's modules that a source imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "overparam_lib"}


def climbs(source: str, package: str, own: str) -> list[str]:
    """The imports of a module on floor `own` that do not come from its package or from below."""
    allowed = {*FLOORS[: FLOORS.index(own)], own} if own in FLOORS else set()
    return sorted(
        name for name in imported(source, package) if floor(name) in FLOORS and floor(name) not in allowed
    )


def undocumented(source: str) -> list[str]:
    """The public functions, classes and methods without a docstring, and the module if it has none."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else ["the module"]
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    classes = [node for node in public if isinstance(node, ast.ClassDef)]
    methods = [m for c in classes for m in c.body if isinstance(m, kinds) and not m.name.startswith("_")]
    return found + [node.name for node in public + methods if ast.get_docstring(node) is None]


def mentions_of_chapters(source: str) -> list[str]:
    """Places where a source names a chapter's folder or a lecture's number."""
    return re.findall(r"(?i)\bchapters?[/ ]\d\w*|\blecture \d[\w.]*|\b\d_[a-z]+_[a-z_]+\.ipynb", source)


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(LIBRARY.parent).parent.parts)


def name_of(path: Path) -> str:
    return path.relative_to(LIBRARY).with_suffix("").as_posix()


def floor_of(path: Path) -> str:
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_stands_on_a_known_floor(path):
    assert floor_of(path) in (*FLOORS, "__init__")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_below(path):
    assert climbs(path.read_text("utf-8"), package_of(path), floor_of(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_public_is_documented(path):
    assert undocumented(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_library_knows_no_chapter(path):
    assert mentions_of_chapters(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import overparam_lib.training",
        "import overparam_lib.training.loop as loop",
        "from overparam_lib import training",
        "from overparam_lib.training import train",
        "from overparam_lib.training.loop import train",
        "from ..training import train",
        "from .. import training",
        "def f():\n    from overparam_lib.plotting import style",
    ],
)
def test_a_climb_is_found(line):
    assert climbs(line, "overparam_lib.networks", "networks")


@pytest.mark.parametrize(
    "line",
    [
        "import torch",
        "from overparam_lib.runtime import generator",
        "from overparam_lib.datasets.clustered import ClusteredMixture",
        "from . import two_layer",
        "from .two_layer import TwoLayer",
        "from ..runtime import generator",
        "import overparam_library.training",
        "from overparam_lib import __version__",
    ],
)
def test_no_climb_is_found_where_there_is_none(line):
    assert climbs(line, "overparam_lib.networks", "networks") == []


def test_the_package_itself_stands_on_nothing():
    assert climbs("from overparam_lib.runtime import generator", "overparam_lib", "__init__")


def test_missing_docstrings_are_found():
    functions = "def f(): pass\ndef _g(): pass\n"
    source = functions + "class C:\n    '''Doc.'''\n    def m(self): pass\n    def _n(self): pass"
    assert undocumented(source) == ["the module", "f", "m"]


@pytest.mark.parametrize(
    "line",
    [
        "# see chapters/2_clustered_data",
        "'''Used in chapter 2.'''",
        "open('3_what_sgd_does.ipynb')",
        "# lecture 2.3",
    ],
)
def test_a_mention_of_a_chapter_is_found(line):
    assert mentions_of_chapters(line)

"""What every stored lecture must be like.

Each check takes a notebook as parsed JSON and returns its faults, one text each.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from overparam_lib.notebook import claims_in

Notebook = dict[str, Any]
Faults = list[str]

LONGEST_CELL = 20
LARGEST_FILE = 1_000_000
SHORTEST_ALT = 30
ONCE = ("setup-colab", "parameters")
_SKIPPING = ("nbval-skip", "nbval-raises-exception", "raises-exception", "skip-execution")
_MACHINE_PATH = re.compile(
    r"(?<![\w./-])/(?:home|root|tmp|Users|work|content|usr|opt|var|mnt)/[\w.-]+|[A-Z]:\\\\?Users"
)
_EXACT = re.compile(r'<data class="exact" value="([^"]*)">')


def every_cell_ran(notebook: Notebook) -> Faults:
    """Code cells were run in order, from 1."""
    counts = [cell["execution_count"] for _, cell in _code(notebook)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts are {counts}"]


def no_errors(notebook: Notebook) -> Faults:
    """No output is an error."""
    return [f"cell {i} stores {o['ename']}" for i, o in _outputs(notebook) if o["output_type"] == "error"]


def no_stderr(notebook: Notebook) -> Faults:
    """Nothing was written to stderr: no warning, no progress bar."""
    return [
        f"cell {i} wrote to stderr: {_text(o['text'])[:60]}"
        for i, o in _outputs(notebook)
        if o.get("name") == "stderr"
    ]


def short_cells(notebook: Notebook) -> Faults:
    """A code cell has at most 20 lines."""
    lengths = {i: len(_text(cell["source"]).splitlines()) for i, cell in _code(notebook)}
    return [
        f"cell {i} has {n} lines, {LONGEST_CELL} are allowed" for i, n in lengths.items() if n > LONGEST_CELL
    ]


def alt_texts(notebook: Notebook) -> Faults:
    """A cell that shows a figure says in words what is in it; no two say the same."""
    alts = {i: _alt(cell) for i, cell in _code(notebook) if any(map(_is_image, cell["outputs"]))}
    short = [f"cell {i}: the figure's alt text is {alt!r}" for i, alt in alts.items() if not _is_telling(alt)]
    repeated = [alt for alt, times in Counter(alts.values()).items() if times > 1 and alt]
    return short + [f"two figures have the alt text {alt!r}" for alt in repeated]


def alt_text_of_one(notebook: Notebook) -> Faults:
    """A cell shows one figure: its alt text can describe no more."""
    numbers = {i: sum(map(_is_image, cell["outputs"])) for i, cell in _code(notebook)}
    return [f"cell {i} shows {n} figures" for i, n in numbers.items() if n > 1]


def some_claim(notebook: Notebook) -> Faults:
    """There is a claim."""
    return [] if claims_in(notebook) else ["there is no claim"]


def honest_claims(notebook: Notebook) -> Faults:
    """A claim's card, its line of text and its metadata say the same, and that it holds."""
    faults = []
    for i, output in _outputs(notebook):
        if claim := output.get("metadata", {}).get("overparam_lib", {}).get("claim"):
            faults += [
                f"cell {i}, claim {claim.get('id')}: {fault}"
                for fault in _claim_faults(claim, output["data"])
            ]
    return faults


def claims_are_recorded(notebook: Notebook) -> Faults:
    """What looks like a claim has the metadata that the ledger reads."""
    return [
        f"cell {i} shows a claim without metadata"
        for i, o in _outputs(notebook)
        if _text(o.get("data", {}).get("text/plain", "")).startswith("claim ")
        and "claim" not in o.get("metadata", {}).get("overparam_lib", {})
    ]


def small_file(notebook: Notebook) -> Faults:
    """The file has at most 1 MB."""
    size = len(json.dumps(notebook, ensure_ascii=False, indent=1).encode())
    return [f"{size / 1e6:.2f} MB, {LARGEST_FILE / 1e6:g} are allowed"] if size > LARGEST_FILE else []


def everything_is_compared(notebook: Notebook) -> Faults:
    """One cell's output at most is not compared, and no cell is left out."""
    tags = Counter(tag for _, cell in _code(notebook) for tag in _tags(cell))
    marks = re.compile(r"#\s*NBVAL_", re.I)
    faults = [f"{tags[tag]} cells are tagged {tag}" for tag in _SKIPPING if tags[tag]]
    faults += [
        f"cell {i} has a NBVAL comment" for i, cell in _code(notebook) if marks.search(_text(cell["source"]))
    ]
    if tags["nbval-ignore-output"] > 1:
        faults.append(f"{tags['nbval-ignore-output']} cells are tagged nbval-ignore-output, one is allowed")
    return faults


def special_cells(notebook: Notebook) -> Faults:
    """There is one setup-colab cell, and one parameters cell."""
    tags = Counter(tag for _, cell in _code(notebook) for tag in _tags(cell))
    return [f"{tags[tag]} code cells are tagged {tag}, one is needed" for tag in ONCE if tags[tag] != 1]


def cell_ids(notebook: Notebook) -> Faults:
    """Every cell has an id of its own."""
    ids = [cell.get("id") for cell in notebook["cells"]]
    return [f"cell id {id!r} occurs {n} times" for id, n in Counter(ids).items() if n > 1 or not id]


def no_machine_paths(notebook: Notebook) -> Faults:
    """No output tells where on a disk it was made."""
    texts = ((i, json.dumps(_without_images(o))) for i, o in _outputs(notebook))
    return [
        f"cell {i} shows the path {found[0]}" for i, text in texts if (found := _MACHINE_PATH.search(text))
    ]


def stable_metadata(notebook: Notebook) -> Faults:
    """The kernel is python3, and nothing says when or by what version a cell was run."""
    name = notebook["metadata"].get("kernelspec", {}).get("name")
    faults = [] if name == "python3" else [f"the kernel is {name!r}, not 'python3'"]
    if set(notebook["metadata"].get("language_info", {})) - {"name"}:
        faults.append("language_info holds versions")
    return faults + [
        f"cell {i} keeps the times of its run" for i, c in _code(notebook) if "execution" in c["metadata"]
    ]


def described(notebook: Notebook) -> Faults:
    """The notebook's metadata hold a description of the page, for search engines."""
    text = notebook["metadata"].get("description", "")
    return (
        [] if 50 <= len(text) <= 160 else [f"metadata description has {len(text)} characters, not 50 to 160"]
    )


CHECKS: tuple[Callable[[Notebook], Faults], ...] = (
    every_cell_ran,
    no_errors,
    no_stderr,
    short_cells,
    alt_texts,
    alt_text_of_one,
    some_claim,
    honest_claims,
    claims_are_recorded,
    small_file,
    everything_is_compared,
    special_cells,
    cell_ids,
    no_machine_paths,
    stable_metadata,
    described,
)


def repeated_claims(claims: Iterable[dict[str, Any]]) -> Faults:
    """A claim's id is its own in the whole book."""
    times = Counter(claim["id"] for claim in claims)
    return [f"{n} claims are called {id}" for id, n in times.items() if n > 1]


def _claim_faults(claim: dict[str, Any], data: dict[str, Any]) -> Faults:
    faults = [] if claim.get("holds") is True else ["it does not hold"]
    shown = [float(z) for z in " ".join(_EXACT.findall(_text(data.get("text/html", "")))).split()]
    if shown != claim["measured"]:
        faults.append(f"the card shows {shown}, the metadata hold {claim['measured']}")
    line = _text(data.get("text/plain", ""))
    if not line.startswith(f"claim {claim['id']}: holds: {claim['statement']} ("):
        faults.append(f"its text is {line!r}")
    return faults + _bound_faults(claim)


def _bound_faults(claim: dict[str, Any]) -> Faults:
    figures, bound = claim["measured"], claim["bound"]
    slack = claim["atol"] + claim["rtol"] * abs(bound)
    holds = {
        "at_most": max(figures) <= bound,
        "at_least": min(figures) >= bound,
        "expected": abs(sum(figures) / len(figures) - bound) <= slack * (1 + 1e-4) + 1e-12,
    }
    return [] if holds[claim["kind"]] else [f"{figures} is not {claim['kind']} {bound}"]


def _code(notebook: Notebook) -> list[tuple[int, dict[str, Any]]]:
    return [(i, cell) for i, cell in enumerate(notebook["cells"]) if cell["cell_type"] == "code"]


def _outputs(notebook: Notebook) -> list[tuple[int, dict[str, Any]]]:
    return [(i, output) for i, cell in _code(notebook) for output in cell["outputs"]]


def _text(value: str | list[str]) -> str:
    # A file may store a text as a list of its lines.
    return value if isinstance(value, str) else "".join(value)


def _tags(cell: dict[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def _alt(cell: dict[str, Any]) -> str:
    return cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")


def _is_telling(alt: str) -> bool:
    return len(alt) >= SHORTEST_ALT and len(alt.split()) >= 6


def _is_image(output: dict[str, Any]) -> bool:
    return any(kind.startswith("image/") for kind in output.get("data", {}))


def _without_images(output: dict[str, Any]) -> dict[str, Any]:
    data = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
    return {**output, "data": data}

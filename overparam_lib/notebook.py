"""What a lecture calls: claims, numbers for the prose, and recorded results.

Works in Jupyter, Colab and plain Python; outside a notebook the displays are printed.
"""

from __future__ import annotations

import html
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from overparam_lib.runtime import data_folder

__all__ = ["ClaimError", "claim", "claims_in", "compare_claims", "glue", "record", "recorded"]

_GLUE_PREFIX = "application/papermill.record/"
_WORDS = {"at_most": "at most", "at_least": "at least", "expected": "expected"}


class ClaimError(AssertionError):
    """A claim of a lecture does not hold for what its cells computed.

    The attribute ``record`` has its statement, bound and figures, as :func:`claims_in` returns them.
    """

    def __init__(self, message: str, record: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.record = dict(record or {})


def claim(
    id: str,
    statement: str,
    *,
    measured: float | Sequence[float] | np.ndarray | torch.Tensor,
    at_most: float | None = None,
    at_least: float | None = None,
    expected: float | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    rerun_rtol: float = 0.01,
    source: str,
) -> None:
    r"""State that a measured quantity agrees with the theory; raise if it does not, else display it.

    Exactly one of `at_most`, `at_least`, `expected` is given. With :math:`z_1,\dots,z_k` the measured
    figures, one a seed, and b the bound, the claim holds if

    .. math:: \max_j z_j\le b, \qquad \min_j z_j\ge b, \qquad
        \Big|\frac1k\sum_j z_j-b\Big|\le \mathrm{atol}+\mathrm{rtol}\,|b|.

    The display carries the figures three times: not at all in its plain text (which is compared as a
    string on different processors), in the HTML card inside ``<data class="exact">``, and in the
    output's metadata, from which the ledger of all claims is made. If the environment variable
    ``OVERPARAM_CLAIM_LOG`` names a file, the claim is also appended to it as a line of JSON.

    Parameters
    ----------
    id : str
        Name of the claim, unique in the book, such as ``"clustered/few-patterns-change"``.
    statement : str
        What is claimed, one sentence; mathematics between dollars.
    measured : float or array
        The figure, or one figure for each seed.
    at_most, at_least, expected : float
        The bound, usually computed from the theory by an earlier cell.
    rtol, atol : float, default 0
        Relative and absolute tolerance of `expected`.
    rerun_rtol : float, default 0.01
        How closely the figures must come out again on another processor, relative to the largest:
        what the tests compare the stored ones with.
    source : str
        The theorem or paper, such as ``"Arora et al. 2019, Theorem 4.1"``.

    Raises
    ------
    ClaimError
        If the claim does not hold.
    ValueError
        If there is not exactly one bound, or a figure, bound or tolerance is not a finite number.

    Examples
    --------
    >>> claim("demo/half", "Half is below one", measured=0.5, at_most=1.0, source="arithmetic")
    claim demo/half: holds: Half is below one (at most 1)
    """
    bounds = {"at_most": at_most, "at_least": at_least, "expected": expected}
    record = _claim_record(id, statement, measured, bounds, rtol, atol, rerun_rtol, source)
    if not record["holds"]:
        message = f"{id}: {statement} ({_bound_text(record)}) fails; measured {record['measured']}"
        raise ClaimError(message, record)
    _log("OVERPARAM_CLAIM_LOG", record)
    text = f"claim {id}: holds: {statement} ({_bound_text(record)})"
    _show({"text/plain": text, "text/html": _card(record)}, {"overparam_lib": {"claim": record}})


def glue(name: str, value: Any, fmt: str | None = None, display: bool = False) -> None:
    """Record a number for the prose, in the form that MyST-NB's ``glue`` role reads.

    Writes what ``myst_nb.glue`` would write, without needing MyST-NB, so that a lecture also runs
    where MyST-NB is not installed.

    Parameters
    ----------
    name : str
        Key, unique in the lecture.
    value : object
        A number or a text.
    fmt : str, optional
        Format specification such as ``".2f"``. The formatted text is what is stored, so that noise in
        further digits does not reach the stored output.
    display : bool, default False
        Show the value in the lecture too.

    Examples
    --------
    >>> glue("share", 0.12345, ".1%", display=True)
    '12.3%'
    """
    if getattr(value, "ndim", None) == 0:
        value = value.item()  # the text of a NumPy number is not that of a number
    shown = repr(value if fmt is None else format(value, fmt))
    prefix = "" if display else _GLUE_PREFIX
    metadata = {"scrapbook": {"name": name, "mime_prefix": prefix}}
    _show({f"{prefix}text/plain": shown}, metadata)


def record(name: str, value: Any) -> None:
    """Keep a result of this run, if the run is being recorded; else only check that it could be kept.

    A lecture runs live at a size for two processor cores. The same cells are also run at full size or
    on other data, and what they pass to this function is then stored in ``data/recorded/``, together
    with where and how it was computed; see :func:`recorded`. While that happens, the environment
    variable ``OVERPARAM_RECORD_LOG`` names a file, to which a line of JSON is appended at once.

    Parameters
    ----------
    name : str
        Name of the result, unique in the lecture.
    value : object
        Numbers, texts, None, arrays and tensors, in lists and dicts (with texts as keys) of any depth.
        A number that is not an integer is kept to nine significant digits.

    Raises
    ------
    ValueError
        If the value has no place in JSON (a NaN, say), or the name has been recorded before.

    Examples
    --------
    >>> record("accuracy", {"digits": np.array([0.91, 0.93])})
    """
    if not name or not isinstance(name, str):
        raise ValueError(f"name must be a text, got {name!r}")
    plain = _as_json(value, name)
    path = Path(os.environ.get("OVERPARAM_RECORD_LOG") or os.devnull)
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    if name in (json.loads(line)["name"] for line in lines):
        raise ValueError(f"name {name!r} has been recorded before in this run; choose another")
    _log("OVERPARAM_RECORD_LOG", {"name": name, "value": plain})


def recorded(name: str) -> dict[str, Any]:
    """Return a recorded result, and display where and when it was computed.

    Recordings are made by running a lecture at full size; see ``data/README.md``. A cell that shows
    one carries the tag ``recorded``, so that it is left out while the recording itself is made.

    Parameters
    ----------
    name : str
        Name of the recording: ``data/recorded/<name>.json``.

    Returns
    -------
    dict
        What the lecture passed to :func:`record`, by name, with lists for arrays.

    Raises
    ------
    FileNotFoundError
        If there is no such recording; the message lists those there are.
    ValueError
        If the file does not have the form of a recording.
    """
    folder = data_folder() / "recorded"
    path = folder / f"{name}.json"
    known = sorted(p.stem for p in folder.glob("*.json") if p.stem != "schema")
    if name not in known:
        raise FileNotFoundError(f"no recording {name!r} in {folder}; there are {known}")
    content = json.loads(path.read_text("utf-8"))
    missing = {"values", "provenance"} - set(content)
    missing |= {"device", "commit", "dirty", "started", "seconds"} - set(content.get("provenance", ()))
    if missing:
        raise ValueError(f"{path} is not a recording: it has no {sorted(missing)}")
    text = f"recorded {name}: {_where(content['provenance'])}"
    _show({"text/plain": text, "text/html": f'<p class="recorded">{html.escape(text)}</p>'}, {})
    return content["values"]


def claims_in(notebook: str | os.PathLike | Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the claims stored in a notebook's outputs.

    Parameters
    ----------
    notebook : path or mapping
        An ``.ipynb`` file, or its parsed content.

    Returns
    -------
    list of dict
        The claims in order, each with ``"notebook"`` (the path, or an empty text) and ``"cell"`` (the
        cell's index) added.
    """
    is_content = isinstance(notebook, Mapping)
    content = notebook if is_content else json.loads(Path(notebook).read_text("utf-8"))
    name = "" if is_content else str(notebook)
    found = []
    for index, cell in enumerate(content["cells"]):
        for output in cell.get("outputs", ()):
            if "claim" in (ours := output.get("metadata", {}).get("overparam_lib", {})):
                found.append({**ours["claim"], "notebook": name, "cell": index})
    return found


def compare_claims(stored: Sequence[Mapping[str, Any]], rerun: Sequence[Mapping[str, Any]]) -> list[str]:
    """Compare stored claims with those made by running the lectures again.

    Parameters
    ----------
    stored, rerun : sequence of mapping
        Claims as :func:`claims_in` returns them, and as ``OVERPARAM_CLAIM_LOG`` holds them.

    Returns
    -------
    list of str
        One line a difference; empty if every claim was made again, once, with the same words and
        tolerances and with figures and bound within its own ``rerun_rtol``.
    """
    known, made_again = _by_id(stored), _by_id(rerun)
    differences = [f"{id} was made again but is not stored" for id in made_again.keys() - known.keys()]
    for id, olds in known.items():
        news = made_again.get(id, [])
        if len(olds) != 1 or len(news) != 1:
            differences.append(f"{id} is stored {len(olds)} times and was made again {len(news)} times")
        else:
            differences += [f"{id}: {text}" for text in _differences(olds[0], news[0])]
    return sorted(differences)


def _as_json(value: Any, where: str) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.9g}")
    if isinstance(value, (list, tuple)):
        return [_as_json(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _as_json(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    kinds = "finite numbers, texts, None, and arrays, lists and dicts of them with texts as keys"
    raise ValueError(f"{where} cannot be recorded: it is {value!r}, and what can are {kinds}")


def _where(provenance: Mapping[str, Any]) -> str:
    changed = " with uncommitted changes" if provenance["dirty"] else ""
    day, seconds = provenance["started"][:10], provenance["seconds"]
    device, commit = provenance["device"], provenance["commit"][:7]
    return f"computed on {device}, {day}, in {seconds:.0f} s, commit {commit}{changed}"


def _claim_record(id, statement, measured, bounds, rtol, atol, rerun_rtol, source) -> dict[str, Any]:
    given = {kind: bound for kind, bound in bounds.items() if bound is not None}
    if len(given) != 1:
        raise ValueError(f"claim {id}: give one of at_most, at_least, expected; got {sorted(given)}")
    ((kind, bound),) = given.items()
    if isinstance(measured, torch.Tensor):
        measured = measured.detach().cpu().double().numpy()
    figures = np.atleast_1d(np.asarray(measured, dtype=float)).ravel()
    if not figures.size or not np.isfinite([*figures, bound, rtol, atol, rerun_rtol]).all():
        raise ValueError(f"claim {id}: measured, bound and tolerances must be finite numbers, got {measured}")
    return {
        "id": id,
        "statement": statement,
        "source": source,
        "measured": [float(f"{z:.6g}") for z in figures],
        "kind": kind,
        "bound": float(f"{float(bound):.6g}"),
        "rtol": float(rtol),
        "atol": float(atol),
        "rerun_rtol": float(rerun_rtol),
        "holds": _holds(kind, figures, float(bound), atol + rtol * abs(float(bound))),
    }


def _holds(kind: str, figures: np.ndarray, bound: float, tolerance: float) -> bool:
    if kind == "at_most":
        return bool((figures <= bound).all())
    if kind == "at_least":
        return bool((figures >= bound).all())
    return bool(abs(figures.mean() - bound) <= tolerance)


def _bound_text(record: Mapping[str, Any]) -> str:
    text = f"{_WORDS[record['kind']]} {_two_digits(record['bound'])}"
    tolerance = record["atol"] + record["rtol"] * abs(record["bound"])
    return f"{text} ± {_two_digits(tolerance)}" if record["kind"] == "expected" else text


def _two_digits(number: float) -> str:
    # No more: a bound that a cell computed must print alike on every processor. And 100, not 1e+02.
    return f"{float(f'{number:.2g}'):.10g}"


def _card(record: Mapping[str, Any]) -> str:
    # \\(…\\) is typeset both by Jupyter and on the website, where MathJax looks for the class
    statement = re.sub(r"\$([^$]+)\$", r"\\(\1\\)", html.escape(record["statement"]))
    return (
        '<div class="claim tex2jax_process"><p class="claim-statement"><strong>Claim.</strong> '
        f"{statement}.</p>"
        f'<p class="claim-figures">Measured {_exact(record["measured"])}; '
        f"{html.escape(_bound_text(record))}. "
        f'<span class="claim-verdict">Holds.</span></p>'
        f'<p class="claim-source">{html.escape(record["source"])}</p></div>'
    )


def _exact(figures: Sequence[float]) -> str:
    shown = [f"{z:.3g}" for z in figures]
    many = f"{len(shown)} figures from {min(figures):.3g} to {max(figures):.3g}"
    exact = " ".join(map(repr, figures))
    return f'<data class="exact" value="{exact}">{", ".join(shown) if len(shown) <= 6 else many}</data>'


def _log(variable: str, record: Mapping[str, Any]) -> None:
    if path := os.environ.get(variable):
        line = (json.dumps(record) + "\n").encode()
        # One write of an appended line: kernels that run side by side do not mix their lines.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)


def _show(data: dict[str, str], metadata: dict[str, Any]) -> None:
    if _in_notebook():
        from IPython.display import display

        display(data, raw=True, metadata=metadata)
    elif "text/plain" in data:
        print(data["text/plain"])


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def _by_id(claims: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in claims:
        found.setdefault(record["id"], []).append(record)
    return found


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    exact = ("statement", "source", "kind", "rtol", "atol", "rerun_rtol")
    found = [f"{key} was {old[key]!r}, now {new[key]!r}" for key in exact if old[key] != new[key]]
    if not _close(old["measured"], new["measured"], old["rerun_rtol"]):
        found.append(f"measured {old['measured']} is stored, a new run gave {new['measured']}")
    if not _close([old["bound"]], [new["bound"]], old["rerun_rtol"]):
        found.append(f"bound {old['bound']} is stored, a new run gave {new['bound']}")
    return found


def _close(old: Sequence[float], new: Sequence[float], rtol: float) -> bool:
    if len(old) != len(new):
        return False
    tolerance = rtol * max(abs(z) for z in old) + 1e-9
    return all(abs(a - b) <= tolerance for a, b in zip(old, new, strict=True))

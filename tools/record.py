"""Run a lecture's code at full size or on other data, and store what it passes to ``record(...)``.

    make record LECTURE=3_what_sgd_does PROFILE=gpu DATASET=mnist

The result is a file data/recorded/<lecture>-<dataset>-<profile>.json with where, when and from which
commit it was computed. It replaces an older one whole or not at all; what an interrupted run had
recorded until then stays in _build/recording/.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools import ROOT, find, notebooks
from tools.machine import changes, commit, machine, now, versions
from tools.script import Cell, calls, code_cells, parameters, run

RECORDED = ROOT / "data" / "recorded"
UNFINISHED = ROOT / "_build" / "recording"
DATASET = "IMAGES"  # the parameter that names a lecture's data set
_SEEDS = ("SEEDS", "SEED")


class Interrupted(BaseException):
    """The run was told to stop.

    Not a KeyboardInterrupt: a training loop answers that by ending early, and the lecture would go on
    with an unfinished result.
    """


class Refused(Exception):
    """A recording cannot be made like this; the message says what to do."""


def record(path: Path, wanted: argparse.Namespace) -> int:
    """Run one lecture, write its recording, and return the exit status."""
    cells = code_cells(path)
    overrides = _overrides(cells, wanted)
    provenance = _state_of_the_code(wanted) | {"device": _device(wanted.profile), "started": now()}
    begun = time.perf_counter()
    log = UNFINISHED / f"{wanted.name or path.stem}.jsonl"
    with _logs(log), _told_to_stop(), _claims_that_may_fail() as claims:
        namespace = run(cells, overrides, before=lambda cell: print(f"-- {cell.name}", flush=True))
    provenance["seconds"] = round(time.perf_counter() - begun, 1)
    made = {name: namespace[name] for name in parameters(cells)}
    dataset = made.get(DATASET, "synthetic")
    provenance |= {
        "lecture": path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name,
        "dataset": dataset,
        "profile": wanted.profile,
        "seeds": _seeds(made),
        "set": overrides,
        "command": _command(wanted),
        "versions": versions(),
        "machine": machine(),
    }
    values = {line["name"]: line["value"] for line in _lines(log)}
    recording = {"values": values, "claims": claims, "provenance": provenance}
    name = wanted.name or f"{path.stem}-{dataset}-{wanted.profile}"
    return _store(recording, name, Path(wanted.to), log, wanted.keep)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a recording beside its place and rename it: an interruption leaves the old one whole."""
    temporary = path.with_name(f".{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(_rows_on_a_line(text) + "\n", "utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    """Record the lecture that the command line names."""
    wanted = _parser().parse_args(arguments)
    known = notebooks()
    found = find(wanted.lecture, known) if wanted.lecture != "all" else []
    try:
        if len(found) != 1:
            names = ", ".join(p.stem for p in known)
            raise Refused(f"LECTURE={wanted.lecture} does not name one lecture; there are {names}")
        return record(found[0], wanted)
    except Refused as refusal:
        print(f"nothing was run: {refusal}", file=sys.stderr)
        return 2
    except Interrupted as signalled:
        print(f"interrupted; {_left(wanted, found[0])}", file=sys.stderr)
        return 128 + signalled.args[0]
    except Exception:
        traceback.print_exc()
        print(f"a cell failed; {_left(wanted, found[0])}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make record LECTURE=", description=__doc__.splitlines()[0])
    parser.add_argument("lecture", help="path or short name of a lecture")
    parser.add_argument("--profile", choices=("cpu", "gpu"), required=True)
    parser.add_argument("--dataset", default="", help=f"value of the parameter {DATASET}")
    parser.add_argument("--set", default="", help='other parameters, as "WIDTHS=(256,512) SEEDS=(0,)"')
    parser.add_argument("--name", default="", type=_name, help="<lecture>-<dataset>-<profile> by default")
    parser.add_argument("--commit", default="", help="the commit, where there is no git to ask")
    parser.add_argument("--allow-dirty", action="store_true", help="record from code that is not committed")
    parser.add_argument("--keep", action="store_true", help="store the recording even if a claim fails")
    parser.add_argument("--to", default=str(RECORDED), metavar="FOLDER", help="data/recorded by default")
    return parser


def _name(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9][\w-]*", text) or text == "schema":
        raise argparse.ArgumentTypeError(f"{text!r} is no name for a recording: use letters, digits, - and _")
    return text


def _overrides(cells: list[Cell], wanted: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters to set, after checking that the lecture has them and records something."""
    if not calls(cells, "record"):
        raise Refused("the lecture calls record(...) nowhere")
    overrides = {DATASET: wanted.dataset} if wanted.dataset else {}
    for part in shlex.split(wanted.set):
        name, equals, text = part.partition("=")
        try:
            overrides[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise Refused(
                f"SET: {part!r} is not NAME=value with a Python literal, such as SEEDS=(0,1) or "
                f"\"IMAGES='mnist'\""
            ) from None
    known = parameters(cells)
    if unknown := [name for name in overrides if name not in known]:
        raise Refused(f"the lecture has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    return overrides


def _state_of_the_code(wanted: argparse.Namespace) -> dict[str, Any]:
    found = commit()
    if not (wanted.commit or found):
        raise Refused("git does not know the commit here; give it with COMMIT=<40 hexadecimal digits>")
    if not re.fullmatch(r"[0-9a-f]{40}", wanted.commit or found):
        raise Refused(f"COMMIT={wanted.commit} is not 40 hexadecimal digits")
    if found and wanted.commit not in ("", found):
        raise Refused(f"COMMIT={wanted.commit}, but {found} is checked out")
    changed = changes() if found else []
    if changed and not wanted.allow_dirty:
        listed = "\n  ".join(changed[:10])
        raise Refused(f"uncommitted changes (ALLOW_DIRTY=1 records all the same):\n  {listed}")
    # Without git nobody can look, so whoever allows changes is taken to have them.
    return {"commit": wanted.commit or found, "dirty": bool(changed) if found else wanted.allow_dirty}


def _device(profile: str) -> str:
    os.environ["OVERPARAM_PROFILE"] = profile
    from overparam_lib import runtime

    try:
        on = runtime.device()
    except RuntimeError as error:
        raise Refused(str(error)) from None
    described = machine()
    return described["gpu"] if on.type == "cuda" else f"{described['processor']} ({_cores(described)})"


def _cores(described: Mapping[str, Any]) -> str:
    n = described["threads"]
    return f"{n} thread" if n == 1 else f"{n} threads"


@contextmanager
def _logs(log: Path) -> Iterator[None]:
    """Collect what the lecture records in a file that survives whatever happens."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    before = {key: os.environ.pop(key, None) for key in ("OVERPARAM_RECORD_LOG", "OVERPARAM_CLAIM_LOG")}
    with tempfile.NamedTemporaryFile() as claims:
        os.environ.update(OVERPARAM_RECORD_LOG=str(log), OVERPARAM_CLAIM_LOG=claims.name)
        try:
            yield
        finally:
            for key, value in before.items():
                os.environ.pop(key)
                os.environ |= {key: value} if value is not None else {}


@contextmanager
def _told_to_stop() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise Interrupted(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _claims_that_may_fail() -> Iterator[list[dict[str, Any]]]:
    """Let a failed claim be printed and the lecture go on; yield the records of all claims."""
    from overparam_lib import notebook

    claim, made = notebook.claim, []

    def tried(*arguments: Any, **options: Any) -> None:
        try:
            claim(*arguments, **options)
        except notebook.ClaimError as error:
            print(f"claim {error}", flush=True)
            made.append(error.record)
        else:
            made.append(_lines(Path(os.environ["OVERPARAM_CLAIM_LOG"]))[-1])

    notebook.claim = tried
    try:
        yield made
    finally:
        notebook.claim = claim


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []


def _store(recording: dict[str, Any], name: str, folder: Path, log: Path, keep: bool) -> int:
    failed = [claim["id"] for claim in recording["claims"] if not claim["holds"]]
    if not recording["values"]:
        print("nothing was stored: no cell came to record anything", file=sys.stderr)
        return 1
    if failed and not keep:
        write(refused := log.with_name(f"{name}.json"), recording)
        print(f"failed claims: {', '.join(failed)}", file=sys.stderr)
        print(f"the recording was not stored (KEEP=1 would have): it is in {refused}", file=sys.stderr)
        return 1
    write(folder / f"{name}.json", recording)
    log.unlink()
    held = len(recording["claims"]) - len(failed)
    print(f"{folder / name}.json: {len(recording['values'])} results, {held} claims hold"
          + (f", {len(failed)} fail ({', '.join(failed)})" if failed else "")
          + f", {recording['provenance']['seconds']:.0f} s")  # fmt: skip
    return 0


def _left(wanted: argparse.Namespace, path: Path) -> str:
    log = UNFINISHED / f"{wanted.name or path.stem}.jsonl"
    kept = f"{len(_lines(log))} results until then are in {log}"
    return f"{wanted.to} is as it was; {kept}"


def _seeds(made: Mapping[str, Any]) -> list[int]:
    found = next((made[name] for name in _SEEDS if name in made), ())
    return [found] if isinstance(found, int) else list(found)


def _command(wanted: argparse.Namespace) -> str:
    given = {
        "LECTURE": Path(wanted.lecture).stem,
        "PROFILE": wanted.profile,
        "DATASET": wanted.dataset,
        "SET": wanted.set,
        "NAME": wanted.name,
        "ALLOW_DIRTY": "1" if wanted.allow_dirty else "",
        "KEEP": "1" if wanted.keep else "",
    }
    return shlex.join(["make", "record", *(f"{key}={value}" for key, value in given.items() if value)])


def _rows_on_a_line(text: str) -> str:
    # An array's numbers side by side, to be read. (No text of JSON holds a line break: none is touched.)
    return re.sub(r"\[\n[^\[\]{}\"]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)


if __name__ == "__main__":
    sys.exit(main())

"""The ``overparam`` command: the data sets' files.

::

    overparam data list                     what there is, and what of it is on this machine
    overparam data fetch mnist [--to DIR]   download what is missing
    overparam data verify [mnist ...]       compare the files with the published ones

The exit status is 0 if all is well, 1 if a file is missing, wrong or cannot be fetched, 2 if the command
was not understood, and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from overparam_lib import __version__
from overparam_lib.datasets import files
from overparam_lib.datasets.images import IMAGE_SETS

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the command's name; by default that of this process.

    Returns
    -------
    int
        The exit status.
    """
    chosen = _parser().parse_args(arguments)
    try:
        status = chosen.run(chosen)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("overparam: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, head say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except files.DataError as error:
        print(f"overparam: {error}", file=sys.stderr)
        return 1


def _list(chosen: argparse.Namespace) -> int:
    rows = [("name", "images", "shape", "MB", "on this machine")]
    for name, images in IMAGE_SETS.items():
        size = sum(file.size for file in files.files_of(name)) / 1e6
        shape = " x ".join(map(str, images.shape))
        rows.append((name, f"{images.train} + {images.test}", shape, f"{size:.1f}", _presence(name)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\nfolder: {files.cache_folder()}")
    return 0


def _fetch(chosen: argparse.Namespace) -> int:
    names = list(IMAGE_SETS) if "all" in chosen.names else chosen.names
    failed = 0
    for name in dict.fromkeys(names):
        for file in files.files_of(name):
            try:
                print(f"verified  {files.fetch(file.name, root=chosen.to)}", flush=True)
            except files.DataError as error:
                print(f"overparam: {error}", file=sys.stderr)
                failed += 1
                break  # the set's other files come from the same place
        if not files.files_of(name):
            print(f"{name} comes with scikit-learn: nothing to fetch")
    if chosen.to and not failed:
        print(f"to use these files: export OVERPARAM_DATA={files.cache_folder(chosen.to)}")
    return 1 if failed else 0


def _verify(chosen: argparse.Namespace) -> int:
    known = [file for name in dict.fromkeys(chosen.names or IMAGE_SETS) for file in files.files_of(name)]
    states = {file.name: files.state(file.name) for file in known}
    for name, found in states.items():
        print(f"{found:8}  {name}")
    bad = [f"{name} is {found}" for name, found in states.items() if found != "verified"]
    if bad:
        print(f"overparam: in {files.cache_folder()}: {', '.join(bad)}", file=sys.stderr)
        print("overparam: `overparam data fetch NAME` downloads what is missing or corrupt", file=sys.stderr)
    return 1 if bad else 0


def _presence(name: str) -> str:
    states = Counter(files.state(file.name) for file in files.files_of(name))
    if not states:
        return "comes with scikit-learn"
    if len(states) == 1:
        return {"verified": "verified", "missing": "no", "corrupt": "corrupt"}[next(iter(states))]
    return ", ".join(f"{count} files {state}" for state, count in sorted(states.items(), reverse=True))


def _data_set(text: str) -> str:
    if text in IMAGE_SETS:
        return text
    raise argparse.ArgumentTypeError(f"there is no data set {text!r}; there are {', '.join(IMAGE_SETS)}")


def _data_set_or_all(text: str) -> str:
    return text if text == "all" else _data_set(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="overparam", description="The data of overparam_lib.")
    parser.add_argument("--version", action="version", version=f"overparam_lib {__version__}")
    data = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser(
        "data",
        help="the files of the image data sets",
        description="The files of the image data sets. They are in the folder that the environment variable "
        "OVERPARAM_DATA names, else in the user's cache.",
    )
    actions = data.add_subparsers(title="commands", metavar="COMMAND", required=True)

    listing = actions.add_parser("list", help="what there is, and what of it is on this machine")
    listing.set_defaults(run=_list)

    fetching = actions.add_parser("fetch", help="download what is missing or corrupt")
    fetching.add_argument("names", metavar="NAME", nargs="+", type=_data_set_or_all, help="data set, or all")
    fetching.add_argument("--to", metavar="DIR", type=Path, help="folder to use instead")
    fetching.set_defaults(run=_fetch)

    verifying = actions.add_parser("verify", help="compare the files with the published SHA-256")
    verifying.add_argument("names", metavar="NAME", nargs="*", type=_data_set, help="data set (default: all)")
    verifying.set_defaults(run=_verify)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""The claims that the stored lectures make.

    python -m tools.claims LOG

compares them with those of a new run, which ``OVERPARAM_CLAIM_LOG`` collected: nbval does not compare
an output's metadata, and a claim's figures are nowhere else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from overparam_lib.notebook import claims_in, compare_claims
from tools import notebooks


def stored_claims() -> list[dict]:
    """Return every claim of the book, in the order of the lectures."""
    return [claim for path in notebooks() for claim in claims_in(path)]


def differences(log: Path, stored: list[dict]) -> list[str]:
    """Return what a log of claims and the stored claims do not agree on, a line each."""
    lines = log.read_text("utf-8").splitlines() if log.exists() else []
    return compare_claims(stored, [json.loads(line) for line in lines])


def main(log: str) -> int:
    """Print the differences; the exit status says whether there are any."""
    stored = stored_claims()
    found = differences(Path(log), stored)
    print(*found, sep="\n")
    print(f"claims: {len(stored)} stored, compared with a new run: {len(found)} differences")
    return 1 if found or not stored else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

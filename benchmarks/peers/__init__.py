"""Other libraries, each in a process of the peers' own environment, asked line by line.

A request is a line of JSON on the process's input, its answer a line of JSON on its output; arrays are
passed as files. So the two sides run in turns, and neither side's packages have to suit the other's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from tools import ROOT

ENVIRONMENT = ROOT / ".venv-peers"
BESIDE_TORCH = ENVIRONMENT / "torch"  # packages that run in this process, with its torch
MISSING = "peer not installed: make bench-peers"


def beside_torch() -> None:
    """Let the peers that are made of PyTorch be imported, if they are installed."""
    if BESIDE_TORCH.is_dir() and str(BESIDE_TORCH) not in sys.path:
        sys.path.append(str(BESIDE_TORCH))  # last: nothing of ours comes from there


class PeerError(RuntimeError):
    """What a peer was asked for did not work; the message is its own."""


class Peer:
    """A peer's process, as a context; `ask` puts a request to it."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)

    def __enter__(self) -> Peer:
        """Start the process."""
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Close its input, at which it ends."""
        try:
            self._process.communicate(timeout=30)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def ask(self, task: str, **options: object) -> dict:
        """Return the answer to a request; raise `PeerError` if it is an error, or there is none."""
        try:
            self._process.stdin.write(json.dumps({"task": task, **options}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(f"the peer has ended: {self._last_words()}") from None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"the peer has ended: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        return self._errors.read().strip()[-1000:] or f"exit status {self._process.returncode}"


def neural_tangents() -> Peer | None:
    """Return the peer for neural tangent kernels with as many threads as here, None if not installed."""
    python = ENVIRONMENT / "bin" / "python"
    script = Path(__file__).with_name("serve_neural_tangents.py")
    return Peer([str(python), str(script), str(torch.get_num_threads())]) if python.exists() else None

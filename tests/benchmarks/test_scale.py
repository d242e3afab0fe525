"""The number for a matrix in tiles is the dense one, and a run that is killed goes on."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import scale
from overparam_lib.datasets import load_images
from tools import ROOT


def expected(n):
    """yᵀH⁻¹y from the formula, x·x'(π - θ)/2π."""
    digits = load_images("digits")
    x = digits.x[:n].numpy().astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.where(digits.y[:n].numpy() < 5, 1.0, -1.0)
    cos = np.clip(x @ x.T, -1, 1)
    kernel = cos * (math.pi - np.arccos(cos)) / (2 * math.pi)
    np.fill_diagonal(kernel, 0.5)
    return y @ np.linalg.solve(kernel, y)


def arguments(folder, *more, n=300, check=100):
    return ["--dataset", "digits", "--n", str(n), "--check", str(check), "--out", str(folder), *more]


@pytest.mark.parametrize("tiles", ["auto", "disk", "fly"])
def test_both_ways_agree_and_with_the_formula(tmp_path, capsys, tiles):
    assert scale.main(arguments(tmp_path, "--tile", "64", "--tiles", tiles)) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "digits-300.json").read_text())
    assert found["value"] == pytest.approx(expected(300), rel=1e-4)
    assert found["check"]["n"] == 100
    assert found["check"]["dense"] == pytest.approx(expected(100), rel=1e-8)
    assert found["check"]["iterative"] == pytest.approx(expected(100), rel=1e-4)
    assert found["iterations"] > 0 and 0 < found["residual"] < 1e-3 and found["peak_gb"] > 0
    assert re.search(r"n=300, tiles: yᵀH⁻¹y = \S+, \d+ iterations, relative residual", printed)
    assert "wrong by at most 0.001 of it if λ_min is at least" in printed
    assert "of 3600 s: met" in printed and "of 8 GB: met" in printed
    kept = list(tmp_path.glob("*/tile-*.npy"))
    assert len(kept) == (0 if tiles == "fly" else 3 + 15)
    assert ("computed anew for each product" in printed) == (tiles == "fly")


def test_what_is_printed_is_a_lower_bound_as_good_as_it_says(tmp_path, capsys):
    """With a poor solution the error shows, and it is at most |r|²/λ_min."""
    scale.main(arguments(tmp_path, "--tile", "300", "--rtol", "0.1", check=0))
    found = json.loads((tmp_path / "digits-300.json").read_text())
    x, _ = scale.load("digits")
    smallest = np.linalg.eigvalsh(scale.TwoLayerNTK()(x[:300]).numpy())[0]
    error = expected(300) - found["value"]
    assert "check" not in found
    assert 0 < error <= scale.TOLERANCE * found["value"] * found["needed"] / smallest * 1.001


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(tmp_path):
    options = arguments(tmp_path, "--tile", "30", n=600, check=0)
    command = [sys.executable, "-m", "benchmarks.scale", *options]
    how = {"cwd": ROOT, "env": {**os.environ, "TQDM_DISABLE": "1"}, "text": True}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, **how)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*/tile-*.npy"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("tile-*.npy")}
    assert 20 <= len(kept) < 210 and not (tmp_path / "digits-600.json").exists()
    done = subprocess.run(command, capture_output=True, check=True, **how)
    assert not re.search(r" 0% there", done.stdout)
    assert all(path.stat().st_mtime_ns == made for path, made in kept.items())
    found = json.loads((tmp_path / "digits-600.json").read_text())
    assert found["value"] == pytest.approx(expected(600), rel=1e-4)


def test_tiles_go_to_the_disk_if_they_fit(tmp_path, monkeypatch, capsys):
    size = 4 * (100 * 100 + 4 * 30 * 30) / 2

    def choose(choice, free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        return scale.tiles_on_disk(choice, tmp_path / "a" / choice, 100, 30)

    assert choose("auto", 1.3 * size)
    assert not choose("auto", 1.2 * size)
    assert "computed anew for each product" in capsys.readouterr().out
    assert choose("disk", 1.2 * size) and not choose("fly", 10 * size)
    with pytest.raises(SystemExit, match="are needed in .*disk"):
        choose("disk", 0.9 * size)


def test_tiles_that_are_there_need_no_more_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    (tmp_path / "tile-0-0.npy").write_bytes(bytes(100_000))
    assert scale.tiles_on_disk("auto", tmp_path, 100, 30)


def test_ways_that_do_not_agree_end_the_run(tmp_path, monkeypatch):
    solve = scale.solve
    monkeypatch.setattr(scale, "solve", lambda *a: (found := solve(*a))._replace(value=1.002 * found.value))
    with pytest.raises(SystemExit, match="the two ways differ by 2.0e-03"):
        scale.main(arguments(tmp_path, "--tiles", "fly", n=60, check=60))


def test_a_dense_answer_that_is_not_the_known_one_ends_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scale, "KNOWN", {("digits", 60): expected(60)})
    assert scale.main(arguments(tmp_path, "--tiles", "fly", n=60, check=60)) == 0
    assert "an independent computation gave" in capsys.readouterr().out
    monkeypatch.setattr(scale, "KNOWN", {("digits", 60): 1.0001 * expected(60)})
    with pytest.raises(SystemExit, match="is not the known one"):
        scale.main(arguments(tmp_path, "--tiles", "fly", n=60, check=60))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("--n", "1301"), "--n must be from 1 to 1300"),
        (("--n", "0"), "--n must be from 1 to 1300"),
        (("--check", "-1"), "--check must not be negative"),
        (("--tile", "0"), "--tile be positive"),
        (("--rtol", "1"), "--rtol lie between 0 and 1"),
        (("--dataset", "cifar10"), "--dataset must be mnist or digits"),
        (("--tiles", "ram"), "invalid choice"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, capsys, bad, message):
    with pytest.raises(SystemExit) as stopped:
        scale.main(arguments(tmp_path, *bad))
    assert message in f"{stopped.value}{capsys.readouterr().err}"

"""Kernels are compared only if they agree; peers are asked in turns; costs are fitted."""

import json
import math
import sys
import textwrap

import numpy as np
import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import kernels, peers
from benchmarks.kernels import QUICK, Sizes
from benchmarks.row import Row, table
from overparam_lib.kernels import MLPNTK, EmpiricalNTK

# A peer that evaluates kernels as told: HOW is "right", "wrong" or "silent".
FAKE = """
import json, os, sys
import numpy as np
print("a word on stderr", file=sys.stderr)
for line in sys.stdin:
    request = json.loads(line)
    with open(LOG, "a") as log:
        log.write(request["task"] + chr(10))
    if HOW == "silent":
        sys.exit("no memory left")
    if request["task"] == "versions":
        answer = {"jax": "0", "methods": ["FAILS", "SLOW", "FAST"]}
    elif request.get("method") == "FAILS":
        answer = {"error": "AttributeError: no such thing"}
    else:
        kind = "analytic" if request["task"] == "analytic" else "empirical"
        assert np.load(request["x"]).dtype == np.float32
        kernel = np.load(os.path.join(FOLDER, kind + ".npy"))
        if HOW == "wrong":
            kernel[0, -1] += 0.01 * kernel.max()
        np.save(request["out"], kernel)
        answer = {"seconds": {"SLOW": 5e6}.get(request.get("method"), 5.0)}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def fake(tmp_path):
    """A function that makes a peer of a kind; what it was asked is in asked.txt."""

    def make(how):
        x = kernels.inputs(QUICK.analytic)
        np.save(tmp_path / "analytic.npy", MLPNTK(kernels.DEPTH)(x).numpy())
        x = kernels.inputs(QUICK.empirical, QUICK.widths[0])
        np.save(tmp_path / "empirical.npy", EmpiricalNTK(kernels.network(QUICK.widths))(x).numpy())
        known = {"HOW": how, "FOLDER": str(tmp_path), "LOG": str(tmp_path / "asked.txt")}
        script = tmp_path / "fake.py"
        script.write_text("".join(f"{k} = {v!r}\n" for k, v in known.items()) + textwrap.dedent(FAKE))
        return peers.Peer([sys.executable, str(script)])

    return make


@pytest.fixture
def in_process(monkeypatch):
    """Costs are measured here, not in a process each: twenty imports of PyTorch take too long."""
    monkeypatch.setattr(kernels, "_apart", lambda task, n: {**kernels.evaluate(task, n), "gb": 1e-3 * n})


def by_name(rows):
    return {row.name: row for row in rows}


def test_without_peers_the_rows_say_what_to_do(monkeypatch, tmp_path, capsys, in_process):
    monkeypatch.setattr(peers, "ENVIRONMENT", tmp_path / "nothing")
    assert bench.main(["kernels", "--quick", "--to", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("peer not installed: make bench-peers") == 2
    (path,) = tmp_path.glob("*.json")
    found = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    assert found["neural-tangents over MLPNTK"]["median"] is None
    assert found["neural-tangents over EmpiricalNTK"]["samples"] == []
    for name in ("MLPNTK over X @ X.T", "vmap(jacrev) over EmpiricalNTK"):
        assert len(found[name]["samples"]) == QUICK.pairs and found[name]["median"] > 0
    for task in kernels.TASKS:
        assert found[f"{task}, n=8: time"]["median"] > 0
        assert found[f"{task}: memory as a power of n"]["median"] == pytest.approx(1)
        assert found[f"{task}: time as a power of n"]["unit"] == "power"


def test_a_peer_is_asked_in_turns_and_its_best_method_counts(fake, tmp_path):
    with fake("right") as peer:
        found = by_name(kernels.analytic(QUICK, peer, str(tmp_path)))
        found |= by_name(kernels.empirical(QUICK, peer, str(tmp_path)))
    analytic = found["neural-tangents over MLPNTK"]
    assert (analytic.target, analytic.least) == (3, True) and len(analytic.samples) == QUICK.pairs
    assert "met; kernels differ off and on the diagonal by 0.0e+00" in analytic.verdict
    best = found["neural-tangents over EmpiricalNTK"]
    assert best.samples == found["neural-tangents, FAST"].samples
    assert "FAST; with jax 0 there is no FAILS" in best.note and best.target == 30
    assert found["neural-tangents, SLOW"].value > best.value
    assert found["neural-tangents, FAILS"].note == "AttributeError: no such thing"
    asked = (tmp_path / "asked.txt").read_text().split()
    each = 1 + 1 + QUICK.pairs  # for the result, a pair to warm up, and those that count
    assert asked == ["analytic"] * each + ["versions", "empirical"] + ["empirical"] * 2 * each


def test_kernels_that_differ_are_not_compared(fake, tmp_path):
    with fake("wrong") as peer:
        found = by_name(kernels.analytic(QUICK, peer, str(tmp_path)))
        found |= by_name(kernels.empirical(QUICK, peer, str(tmp_path)))
    for name in ("neural-tangents over MLPNTK", "neural-tangents, FAST"):
        assert not found[name].samples
        assert "REFUSED, the kernels differ off and on the diagonal by 1.0e-02" in table([found[name]])
    assert "no method" in found["neural-tangents over EmpiricalNTK"].note
    assert found["vmap(jacrev) over EmpiricalNTK"].samples


def test_a_peer_that_ends_says_why(fake):
    with fake("silent") as peer:
        with pytest.raises(peers.PeerError, match="the peer has ended: (.|\n)*no memory left"):
            peer.ask("versions")
        with pytest.raises(peers.PeerError, match="the peer has ended"):
            peer.ask("versions")


def test_the_way_by_hand_is_the_same_kernel():
    net, x = kernels.network((6, 5, 4, 2)).double(), kernels.inputs(7, 6).double()
    torch.testing.assert_close(EmpiricalNTK(net)(x), kernels.contracted_jacobians(net, x))
    before = torch.random.get_rng_state()
    assert (kernels.network((3, 2))[0].weight == kernels.network((3, 2))[0].weight).all()
    assert (torch.random.get_rng_state() == before).all()


def test_differences_are_split_by_the_diagonal():
    one = torch.tensor([[4.0, 1.0], [1.0, 2.0]])
    assert kernels.difference(one, one + torch.tensor([[0.0, 0.0], [1.0, 2.0]])) == (0.25, 0.5)
    outputs = one[:, :, None, None].expand(2, 2, 3, 3).clone()
    other = outputs.clone()
    other[0, 1, 2, 0] += 0.4
    assert kernels.difference(outputs, other)[0] == pytest.approx(0.1)
    assert kernels.difference(one, one.clone().fill_(math.nan)) == (math.inf, math.inf)
    with pytest.raises(ValueError, match="cannot be compared"):
        kernels.difference(one, one[:1])
    blank = Row("a", "", "ratio", ())
    assert "REFUSED" in kernels.compared(blank, (math.nan, 0.0), lambda: [1.0]).note


def test_a_power_law_is_found():
    slope, deviation = kernels.power_law([10, 20, 40], [3 * n**1.5 for n in (10, 20, 40)])
    assert slope == pytest.approx(1.5) and deviation == pytest.approx(1)
    assert kernels.power_law([1, 2, 4], [1, 4, 4])[1] == pytest.approx(2 ** (2 / 3))


def test_too_little_memory_is_no_power(monkeypatch):
    monkeypatch.setattr(kernels, "_apart", lambda task, n: {"seconds": [float(n)], "gb": 0.0})
    *_, time, memory = kernels.growth("MLPNTK", (2, 4, 8))
    assert time.value == pytest.approx(1) and memory.note == "too little to be measured"


def test_a_cost_is_measured_in_its_own_process():
    found = kernels._apart("TwoLayerNTK", 1500)
    assert len(found["seconds"]) == 3 and min(found["seconds"]) > 0
    assert 1500**2 * 4 / 1e9 <= found["gb"] < 1  # at least the result


def test_a_cost_that_cannot_be_measured_says_why():
    with pytest.raises(RuntimeError, match="nothing with n=4 failed(.|\n)*KeyError"):
        kernels._apart("nothing", 4)


def test_a_lower_target_and_a_row_without_samples():
    rows = [Row("a", "", "ratio", [3.0], 2.5, least=True), Row("b", "", "ratio", [2.0], 2.5, True, "a word")]
    rows.append(Row("c", "", "ratio", (), 2.5, note="not there"))
    assert table(rows).splitlines()[1:] == [
        "a         3        3        3  ratio   target at least 2.5: met",
        "b         2        2        2  ratio   target at least 2.5: MISSED; a word",
        "c         -        -        -  ratio   not there",
    ]


def test_sizes_are_those_of_the_targets():
    assert (Sizes().analytic, Sizes().empirical, kernels.DIM) == (4000, 64, 784)
    assert Sizes().widths == (784, 512, 512, 512, 1)

"""Probes against direct formulas."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from overparam_lib.networks import TwoLayer
from overparam_lib.runtime import generator
from overparam_lib.training import (
    Accuracy,
    DistanceToInit,
    PatternsChanged,
    Probe,
    SingularValues,
    at,
    every,
    full_batch,
    singular_values,
    train,
)

DOUBLE = torch.float64


def moved_network(probes, m=12, d=5, trained="first", steps=20):
    """Train a little; return the network, its copy at the start, and the history."""
    make = lambda: TwoLayer(  # noqa: E731
        d, m, 3, parameterization="standard", trained=trained, generator=generator(0), dtype=DOUBLE
    )
    net, start = make(), make()
    x, y = torch.randn(9, d, generator=generator(1), dtype=DOUBLE), torch.arange(9) % 3
    sgd = torch.optim.SGD(net.parameters(), lr=0.3)
    history = train(
        net, full_batch(x, y), loss=F.cross_entropy, optimizer=sgd, steps=steps, probes=probes, progress=False
    )
    return net, start, history


def test_distances_are_the_three_formulas():
    probes = [DistanceToInit(at(), kind=kind) for kind in ("frobenius", "relative", "neuron")]
    net, start, history = moved_network(probes)
    W, W0 = (n.hidden_weight.detach().numpy() for n in (net, start))
    frobenius = np.sqrt(((W - W0) ** 2).sum())
    assert history.final("distance") == pytest.approx(frobenius, rel=1e-12)
    assert history.final("relative_distance") == pytest.approx(frobenius / np.linalg.norm(W0), rel=1e-12)
    np.testing.assert_allclose(
        history.final("neuron_distance"), np.sqrt(((W - W0) ** 2).sum(axis=1)), rtol=1e-12
    )
    assert frobenius > 0.01


def test_distance_of_both_layers_is_that_of_one_vector():
    probes = [DistanceToInit(at()), DistanceToInit(at(), parameter="output_weight", name="output")]
    net, start, history = moved_network(probes, trained="both")
    flat = [torch.cat([p.detach().ravel() for p in n.parameters()]) for n in (net, start)]
    assert history.final("distance") == pytest.approx((flat[0] - flat[1]).norm().item(), rel=1e-12)
    moved = (net.output_weight - start.output_weight).norm().item()
    assert history.final("output") == pytest.approx(moved, rel=1e-12)


def test_patterns_changed_counts_pairs():
    x = torch.randn(30, 5, generator=generator(2), dtype=DOUBLE)
    net, start, history = moved_network([PatternsChanged(x, 5)], steps=40)
    count = sum(
        ((net.hidden_weight[r] @ x[i]) >= 0) != ((start.hidden_weight[r] @ x[i]) >= 0)
        for r in range(12) for i in range(30)
    )  # fmt: skip
    assert history["patterns_changed"].values[0] == 0.0
    assert history.final("patterns_changed") == pytest.approx(count.item() / 360)
    assert count > 0


def test_accuracy_of_classes_and_of_signs():
    x, y = torch.eye(4), torch.tensor([0, 1, 2, 0])
    assert Accuracy(x, y, 1)(nn.Identity()) == 0.75
    scalar = Accuracy(torch.tensor([0.0, 2.0, -3.0, 4.0]), torch.tensor([1, 1, -1, -1]), 1)
    assert scalar(nn.Identity()) == 0.75


@pytest.mark.parametrize("m", [12, 3])
def test_singular_values_of_weight_and_update(m):
    probes = [SingularValues(at(0), of="weight"), SingularValues(at(), of="update")]
    net, start, history = moved_network(probes, m=m)
    np.testing.assert_allclose(
        history["singular_values_of_weight"].values[0],
        np.linalg.svd(start.hidden_weight.detach(), compute_uv=False), rtol=1e-10,
    )  # fmt: skip
    update = (net.hidden_weight - start.hidden_weight).detach()
    np.testing.assert_allclose(
        history.final("singular_values_of_update"),
        np.linalg.svd(update, compute_uv=False),
        atol=1e-8 * update.norm(),
    )


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (5, 5), (1, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_singular_values_against_numpy(shape, dtype):
    matrix = torch.randn(shape, generator=generator(0), dtype=dtype)
    expected = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values(matrix), expected, rtol=1e-10)


def test_singular_values_keep_small_ones_to_a_hundred_millionth_of_the_largest():
    Q = torch.linalg.qr(torch.randn(50, 4, generator=generator(0), dtype=DOUBLE))[0]
    values = torch.tensor([1.0, 1e-3, 1e-6, 0.0], dtype=DOUBLE)
    np.testing.assert_allclose(singular_values(Q * values), values, atol=2e-8, rtol=1e-4)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [(torch.ones(3), "two dimensions"), (torch.tensor([[1.0, float("nan")]]), "NaN or infinite")],
)
def test_singular_values_refuse_bad_input(matrix, message):
    with pytest.raises(ValueError, match=message):
        singular_values(matrix)


def test_schedules():
    assert [t for t in range(12) if every(5)(t)] == [0, 5, 10]
    assert [t for t in range(12) if at(3, 7)(t)] == [3, 7]
    assert not any(at()(t) for t in range(12))
    with pytest.raises(ValueError, match="period must be at least 1"):
        every(0)


def test_a_probe_is_a_copy_not_a_view_and_leaves_no_graph():
    linear = nn.Linear(2, 2)
    probe = Probe("weight", lambda model: model.weight, 1)
    value = probe(linear)
    with torch.no_grad():
        linear.weight.zero_()
    assert value.any()


def test_probing_does_not_change_the_run():
    with_probes = moved_network([DistanceToInit(1), SingularValues(3, of="update")])
    without = moved_network([])
    assert torch.equal(with_probes[0].hidden_weight, without[0].hidden_weight)
    assert with_probes[2].losses == without[2].losses


@pytest.mark.parametrize(
    "probe",
    [DistanceToInit(1, kind="neuron"), SingularValues(1, of="weight")],
    ids=["neuron distance", "singular values"],
)
def test_a_probe_of_one_matrix_asks_which(probe):
    with pytest.raises(ValueError, match="name it with parameter"):
        moved_network([probe], trained="both")


@pytest.mark.parametrize(
    "make", [lambda: DistanceToInit(1, kind="spectral"), lambda: SingularValues(1, of="gradient")]
)
def test_unknown_kinds_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()

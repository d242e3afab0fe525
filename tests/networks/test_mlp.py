"""MLP: its formula, its start, and what it refuses."""

import math

import pytest
import torch

from overparam_lib.networks import MLP
from overparam_lib.runtime import generator

DOUBLE = torch.float64


def network(widths=(7, 4), outputs=3, seed=0, **options):
    return MLP(5, widths, outputs, generator=generator(seed), dtype=DOUBLE, **options)


@pytest.mark.parametrize("outputs", [None, 1, 3])
@pytest.mark.parametrize("widths", [(), (7,), (7, 4)])
def test_output_is_the_sum_over_neurons(widths, outputs):
    net = network(widths, outputs)
    with torch.no_grad():
        for layer in net.layers:
            layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator(2), dtype=DOUBLE))
    x = torch.randn(4, 5, dtype=DOUBLE, generator=generator(1))
    for i, row in enumerate(net(x).reshape(4, -1)):
        h = x[i].tolist()
        for depth, layer in enumerate(net.layers):
            weight, bias = layer.weight.tolist(), layer.bias.tolist()
            z = [
                sum(w * v for w, v in zip(ws, h, strict=True)) + b for ws, b in zip(weight, bias, strict=True)
            ]
            h = z if depth == len(widths) else [max(v, 0.0) for v in z]
        torch.testing.assert_close(row, torch.tensor(h, dtype=DOUBLE), rtol=1e-13, atol=1e-13)
    assert net(x).shape == ((4,) if outputs is None else (4, outputs))


@pytest.mark.parametrize("variance", [2.0, 0.5])
def test_start_has_the_stated_law(variance):
    net = MLP(300, (400, 200), 10, weight_variance=variance, generator=generator(0))
    for layer, fan_in in zip(net.layers, (300, 400, 200), strict=True):
        w = layer.weight.detach().double()
        assert abs(w.mean()) < 5 * math.sqrt(variance / fan_in / w.numel())
        # The variance of a sample variance of Gaussians is 2σ⁴/N.
        assert w.var().item() == pytest.approx(variance / fan_in, rel=5 * math.sqrt(2 / w.numel()))
        assert not layer.bias.any()


def test_two_keeps_the_size_of_activations():
    """E|x^(h)|² / m_h is the same in each hidden layer for ReLU and variance 2 (He et al.)."""
    x = torch.randn(50, 300, generator=generator(1))
    net = MLP(300, (2000, 2000, 2000), generator=generator(0))
    sizes, h = [], x
    for layer in net.layers[:-1]:
        h = torch.relu(layer(h))
        sizes.append((h.square().sum(1).mean() / h.shape[1]).item())
    assert max(sizes) / min(sizes) < 1.1


def test_number_of_parameters():
    # Zhang et al. 2017, Table 1: the two fully connected networks, on 28 x 28 x 3 inputs.
    assert MLP(2352, (512,), 10, generator=generator(0)).num_parameters == 1_209_866
    assert MLP(2352, (512,) * 3, 10, generator=generator(0)).num_parameters == 1_735_178


def test_the_seed_decides_and_the_global_state_does_not():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = network()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    two, other = network(), network(seed=1)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)
    single = MLP(5, (7, 4), 3, generator=generator(0))
    torch.testing.assert_close(single.layers[0].weight.double(), one.layers[0].weight, rtol=1e-6, atol=0)


def test_without_biases_it_is_homogeneous():
    net = network(bias=False)
    x = torch.randn(4, 5, dtype=DOUBLE, generator=generator(1))
    assert all(layer.bias is None for layer in net.layers)
    torch.testing.assert_close(net(3 * x), 3 * net(x), rtol=1e-12, atol=1e-12)


def test_state_round_trip_and_one_line():
    net, other = network(), network(seed=1)
    other.load_state_dict(net.state_dict())
    x = torch.ones(2, 5, dtype=DOUBLE)
    assert torch.equal(net(x), other(x))
    assert "weight_variance=2.0" in repr(net)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, (3,), 2), {}, "in_features must be a positive integer, got 0"),
        ((5, (3, 0), 2), {}, r"widths\[1\] must be a positive integer, got 0"),
        ((5, (3,), 0), {}, "num_outputs must be a positive integer, got 0"),
        ((5, (3,), 2), {"activation": "rleu"}, "activation must be one of"),
        ((5, (3,), 2), {"weight_variance": -1.0}, "weight_variance must be positive and finite, got -1.0"),
        ((5, (3,), 2), {"weight_variance": math.nan}, "weight_variance must be positive"),
    ],
)
def test_what_it_refuses(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        MLP(*arguments, generator=generator(0), **options)


def test_inputs_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"x must have shape \(n, 5\), got \(4, 6\)"):
        network()(torch.ones(4, 6))


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_same_network():
    x = torch.randn(4, 5, dtype=DOUBLE, generator=generator(1))
    there = network(device="cuda")
    torch.testing.assert_close(there(x.cuda()).cpu(), network()(x), rtol=1e-12, atol=1e-12)

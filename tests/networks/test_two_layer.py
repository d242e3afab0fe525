"""TwoLayer: its formula, its start, and the map between the two parameterizations."""

import math

import pytest
import torch
from torch.nn import functional as F

from overparam_lib.networks import TwoLayer, reparameterize
from overparam_lib.runtime import generator

DOUBLE = torch.float64
BOTH = pytest.mark.parametrize("parameterization", ["standard", "ntk"])


def network(m=7, outputs=3, parameterization="standard", seed=0, **options):
    return TwoLayer(
        5, m, outputs, parameterization=parameterization, generator=generator(seed), dtype=DOUBLE, **options
    )


@BOTH
@pytest.mark.parametrize("outputs", [None, 1, 3])
def test_output_is_the_sum_over_neurons(parameterization, outputs):
    net = network(outputs=outputs, parameterization=parameterization)
    x = torch.randn(4, 5, dtype=DOUBLE, generator=generator(1))
    scale = 1.0 if parameterization == "standard" else 1 / math.sqrt(7)
    A = net.output_weight.detach().reshape(-1, 7)
    W = net.hidden_weight.detach()
    naive = torch.zeros(4, len(A), dtype=DOUBLE)
    for i in range(4):
        for c in range(len(A)):
            naive[i, c] = scale * sum(A[c, r] * max(W[r] @ x[i], 0) for r in range(7))
    naive = naive[:, 0] if outputs is None else naive
    torch.testing.assert_close(net(x), naive, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("identity", lambda z: z),
        ("quadratic", lambda z: z * z),
        ("tanh", torch.tanh),
        ("sigmoid", torch.sigmoid),
        ("erf", torch.erf),
        ("softplus", lambda z: torch.log1p(torch.exp(z))),
        (torch.sin, torch.sin),
    ],
)
def test_activations(name, function):
    net = network(activation=name)
    x = torch.randn(4, 5, dtype=DOUBLE, generator=generator(1))
    torch.testing.assert_close(net(x), function(x @ net.hidden_weight.T) @ net.output_weight.T)


@pytest.mark.parametrize("kappa", [1.0, 0.1])
def test_start_has_the_stated_law(kappa):
    d, m, K = 60, 2000, 4
    for parameterization, scale in (("standard", 1 / math.sqrt(m)), ("ntk", 1.0)):
        net = TwoLayer(d, m, K, parameterization=parameterization, init_scale=kappa, generator=generator(0))
        W, A = net.hidden_weight / (kappa * scale), net.output_weight
        assert abs(W.mean()) < 4 / math.sqrt(m * d)
        assert abs(W.var() - 1) < 4 * math.sqrt(2 / (m * d))
        assert abs(A.mean()) < 4 / math.sqrt(m * K)
        assert abs(A.square().mean() - 1) < 4 * math.sqrt(2 / (m * K))
        assert bool((A.abs() == 1).all()) == (parameterization == "ntk")


@BOTH
@pytest.mark.parametrize("outputs", [None, 3])
def test_antisymmetric_start_is_zero_and_has_mirrored_neurons(parameterization, outputs):
    net = network(8, outputs, parameterization, antisymmetric=True)
    x = torch.randn(6, 5, dtype=DOUBLE, generator=generator(1))
    assert net(x).abs().max() < 1e-15
    assert torch.equal(net.hidden_weight[:4], net.hidden_weight[4:])
    assert torch.equal(net.output_weight[..., :4], -net.output_weight[..., 4:])
    assert net.hidden_weight[:4].unique(dim=0).shape == (4, 5)


@pytest.mark.parametrize(
    ("trained", "requires"), [("first", (True, False)), ("second", (False, True)), ("both", (True, True))]
)
def test_only_the_named_layers_train(trained, requires):
    net = network(trained=trained)
    assert (net.hidden_weight.requires_grad, net.output_weight.requires_grad) == requires
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(2, 5, dtype=DOUBLE)).square().sum().backward()
    optimizer.step()
    moved = tuple(not torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert moved == requires


@pytest.mark.parametrize("start", ["standard", "ntk"])
@pytest.mark.parametrize("trained", ["first", "second", "both"])
def test_both_parameterizations_walk_the_same_path(start, trained):
    """Same steps (converted), same function, over 25 gradient steps."""
    one = network(9, 3, start, trained=trained, init_scale=0.7)
    other, factors = reparameterize(one, "ntk" if start == "standard" else "standard")
    x = torch.randn(12, 5, dtype=DOUBLE, generator=generator(1))
    y = torch.arange(12) % 3
    lr = {"standard": {"hidden_weight": 0.03, "output_weight": 0.05},
          "ntk": {"hidden_weight": 0.27, "output_weight": 0.05}}[start]  # fmt: skip
    first_output = one(x).detach()
    assert torch.allclose(first_output, other(x), rtol=1e-13, atol=1e-13)
    for net, factor in ((one, dict.fromkeys(lr, 1.0)), (other, factors)):
        groups = [{"params": [p], "lr": lr[name] * factor[name]} for name, p in net.named_parameters()]
        optimizer = torch.optim.SGD(groups)
        for _ in range(25):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    assert (one(x) - first_output).abs().max() > 0.05  # the function did change
    torch.testing.assert_close(one(x), other(x), rtol=1e-11, atol=1e-11)


def test_reparameterize_there_and_back_is_the_identity():
    net = network()
    there, forth = reparameterize(net, "ntk")
    back, return_factors = reparameterize(there, "standard")
    torch.testing.assert_close(back.hidden_weight, net.hidden_weight)
    assert torch.equal(back.output_weight, net.output_weight)
    assert all(math.isclose(forth[k] * return_factors[k], 1.0) for k in forth)
    same, ones = reparameterize(net, "standard")
    assert torch.equal(same.hidden_weight, net.hidden_weight) and set(ones.values()) == {1.0}
    assert same.hidden_weight.data_ptr() != net.hidden_weight.data_ptr()


def test_reparameterize_refuses_an_activation_that_is_not_homogeneous():
    with pytest.raises(ValueError, match="activation 'tanh'.*positively homogeneous"):
        reparameterize(network(activation="tanh"), "ntk")


def test_pattern_counts_zero_as_active():
    net = network()
    with torch.no_grad():
        net.hidden_weight[0] = 0
    x = torch.randn(3, 5, dtype=DOUBLE, generator=generator(2))
    assert net.pattern(x)[:, 0].all()
    assert torch.equal(net.pattern(x), net.preactivation(x) >= 0)


def test_same_generator_same_network_and_global_generator_untouched():
    state = torch.random.get_rng_state()
    assert torch.equal(network(seed=5).hidden_weight, network(seed=5).hidden_weight)
    assert not torch.equal(network(seed=5).hidden_weight, network(seed=6).hidden_weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_precision_changes_rounding_only():
    wide, narrow = (
        TwoLayer(5, 7, 3, parameterization="ntk", generator=generator(0), dtype=t)
        for t in (DOUBLE, torch.float32)
    )
    assert torch.equal(wide.hidden_weight.float(), narrow.hidden_weight)


def test_state_dict_round_trip():
    one, two = network(seed=0), network(seed=1)
    two.load_state_dict(one.state_dict())
    x = torch.ones(1, 5, dtype=DOUBLE)
    assert torch.equal(one(x), two(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be a positive integer, got 0"),
        ({"in_features": 2.5}, "in_features must be a positive integer"),
        ({"num_outputs": 0}, "num_outputs must be a positive integer, got 0"),
        ({"parameterization": "mup"}, "parameterization must be one of"),
        ({"trained": "third"}, "trained must be one of"),
        ({"activation": "gelu"}, "activation must be one of"),
        ({"init_scale": float("nan")}, "init_scale must be positive"),
        ({"width": 7, "antisymmetric": True}, "width must be even .* got 7"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    arguments = {"in_features": 5, "width": 8, "num_outputs": 3, "parameterization": "standard"} | options
    with pytest.raises(ValueError, match=message):
        TwoLayer(**arguments, generator=generator(0))


@pytest.mark.parametrize("shape", [(5,), (2, 4), (2, 5, 1)])
def test_wrong_input_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"x must have shape \(n, 5\)"):
        network()(torch.ones(shape, dtype=DOUBLE))


@pytest.mark.gpu
def test_start_on_a_gpu_is_the_one_on_the_cpu():
    on_gpu = TwoLayer(5, 7, 3, parameterization="ntk", generator=generator(0), device="cuda")
    on_cpu = TwoLayer(5, 7, 3, parameterization="ntk", generator=generator(0))
    assert torch.equal(on_gpu.hidden_weight.cpu(), on_cpu.hidden_weight)
    x = torch.randn(4, 5, generator=generator(1))
    torch.testing.assert_close(on_gpu(x.cuda()).cpu(), on_cpu(x))

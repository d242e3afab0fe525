"""What tells one autograd graph from another, and which parameters enter one behind their layers' backs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from overparam_lib.kernels.graph import structure
from overparam_lib.kernels.layers import owners, watched


@pytest.fixture
def net():
    return nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 1)})


def of(net, f, n=4):
    parameters = dict(net.named_parameters())
    with watched(owners(net, list(parameters))) as uses:
        out = f(net, torch.ones(n, 3))
    return structure(out, parameters, uses)


def plain(net, x):
    return net["b"](torch.tanh(net["a"](x)))


def test_the_same_computation_has_the_same_key(net):
    assert of(net, plain).key == of(net, plain).key
    other = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 1)})
    assert of(net, plain).key == of(other, plain).key and hash(of(net, plain).key) is not None


@pytest.mark.parametrize(
    "f",
    [
        lambda net, x: net["b"](torch.sigmoid(net["a"](x))),  # an operation
        lambda net, x: net["b"](torch.tanh(net["a"](net["a"](x)))),  # a use more
        lambda net, x: net["b"](net["a"](x).mean(dim=0) + torch.tanh(net["a"](x))),  # edges
        lambda net, x: F.linear(torch.tanh(net["a"](x)), net["b"].weight, net["b"].bias),  # no layer
        lambda net, x: F.linear(torch.tanh(net["a"](x)), net["a"].weight, net["a"].bias),  # another leaf
        lambda net, x: plain(net, x)[:, 0],  # the shape
    ],
)
def test_another_computation_has_another_key(net, f):
    assert of(net, f).key != of(net, plain).key


def test_another_size_of_batch_has_another_key(net):
    assert of(net, plain, 4).key != of(net, plain, 5).key


def test_constants_are_no_part_of_the_key(net):
    assert of(net, lambda net, x: 2 * plain(net, x)).key == of(net, lambda net, x: 3 * plain(net, x)).key


def test_strays(net):
    assert of(net, plain).strays() == set()
    assert of(net, lambda net, x: net["b"](net["a"](net["a"](x)))).strays() == set()
    assert of(net, lambda net, x: plain(net, x) + 0 * net["a"].weight.sum()).strays() == {"a.weight"}
    assert of(net, lambda net, x: net["b"](x @ net["a"].weight.T)).strays() == {"a.weight"}
    found = of(net, lambda net, x: (net["a"](x), net["b"](x))[1])
    assert found.strays() == set() and [use.name for use in found.uses] == ["b"]  # `a` is not in the graph


def test_a_parameter_may_be_the_output(net):
    found = structure(net["b"].weight, dict(net.named_parameters()), [])
    assert found.strays() == set() and found.entries == {}

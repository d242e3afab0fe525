"""The shape of an autograd graph: what was computed from what, and how often each parameter was used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from overparam_lib.kernels.layers import Use

__all__ = ["Structure", "structure"]

_PARAMETER = "AccumulateGrad"
_ELEMENTWISE = frozenset(
    f"{name}Backward0"
    for name in (
        "Relu Tanh Sigmoid Softplus Gelu Silu Elu LeakyRelu Erf Exp Sin Cos Neg Clone ToCopy Hardtanh"
        " Embedding Convolution AvgPool2D MaxPool2DWithIndices NativeLayerNorm NativeGroupNorm"
    ).split()
)
_OF_TWO = frozenset({"AddBackward0", "SubBackward0", "MulBackward0", "DivBackward0"})
_BY_DIMENSION = frozenset({"SelectBackward0", "MeanBackward1", "SumBackward1", "SqueezeBackward1"})
_RESHAPING = frozenset({"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"})


@dataclass(frozen=True)
class Structure:
    """A graph without its numbers.

    Attributes
    ----------
    key : hashable
        Equal for graphs of the same operations in the same order, between the same parameters and the same
        layers, with outputs of the same shapes and inputs as they were given. Constants of operations (a
        factor, a permutation) are no part of it.
    entries : dict of str to int
        For each parameter's name the number of edges from operations to it.
    uses : list of Use
        The uses of layers that are in the graph.
    by_rows : bool
        Whether each operation is known to keep the samples apart and in their places, whatever the numbers
        are. Of other graphs it is not known: a row may be moved to where a number tells.
    """

    key: Hashable
    entries: dict[str, int]
    uses: list[Use]
    by_rows: bool

    def strays(self) -> set[str]:
        """Return the parameters that enter the graph in another way than through their layers."""
        owned = Counter(
            f"{use.name}.{own}".removeprefix(".")
            for use in self.uses
            for own, _ in use.module.named_parameters(recurse=False)
        )
        return {name for name, number in self.entries.items() if number != owned[name]}


def structure(outputs: Tensor, parameters: Mapping[str, nn.Parameter], uses: Sequence[Use]) -> Structure:
    """Walk through the graph of outputs, breadth first.

    Parameters
    ----------
    outputs : Tensor
        With a graph.
    parameters : dict of str to torch.nn.Parameter
        The leaves that are told apart by name.
    uses : sequence of Use
        Uses of layers in the same computation.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    found = [get_gradient_edge(outputs).node]
    index, nodes, edges_to = {found[0]: 0}, [], [0]
    leaves: dict[str, int] = {}
    n, by_rows = len(outputs), True
    for node in found:  # grows on the way
        operation, edges = node.name(), node.next_functions
        places = [operation]
        for child, slot in edges:
            if child is None:
                continue
            place = index.get(child)
            if place is None:
                place = index[child] = len(found)
                found.append(child)
                edges_to.append(0)
            edges_to[place] += 1
            places += (place, slot)
        operation = _short(operation)
        if operation == _PARAMETER:
            name = names.get(id(node.variable))
            if name is not None:
                leaves[name] = len(nodes)
                places.append(name)
        elif by_rows:
            by_rows = _keeps_rows(node, operation, edges, n)
        nodes.append(tuple(places))
    entries = {name: edges_to[place] for name, place in leaves.items() if place}
    seen = tuple([(use.name, index.get(use.edge.node), use.shape, use.intact) for use in uses])
    key = (tuple(nodes), outputs.shape, seen)
    return Structure(key, entries, [use for use in uses if use.edge.node in index], by_rows)


def _keeps_rows(node: Node, name: str, edges: Sequence[tuple[Node | None, int]], n: int) -> bool:
    if name in _ELEMENTWISE:
        return True
    if name == "TBackward0":  # of a weight
        return all(_name(child) == _PARAMETER for child, _ in edges if child is not None)
    if name == "AddmmBackward0":  # samples times a weight
        weight = edges[2][0]
        return weight is not None and _name(weight) in ("TBackward0", _PARAMETER)
    if name in _OF_TWO:  # a tensor that is broadcast may meet other rows
        children = [(child, slot) for child, slot in edges if child is not None]
        others = [(child, slot) for child, slot in children if _name(child) != _PARAMETER]
        return all(_shape(child, slot) == _shape(node) for child, slot in others)
    if name in _BY_DIMENSION:
        dimensions = node._saved_dim if isinstance(node._saved_dim, tuple) else (node._saved_dim,)
        return bool(dimensions) and all(0 < dimension < 64 for dimension in dimensions)
    if name in _RESHAPING:
        return node._saved_self_sym_sizes[:1] == (n,) == tuple(_shape(node)[:1])
    return False


def _name(node: Node) -> str:
    return _short(node.name())


@cache
def _short(name: str) -> str:
    return name.rpartition("::")[2]


def _shape(node: Node, slot: int = 0) -> torch.Size:
    return node._input_metadata[slot].shape

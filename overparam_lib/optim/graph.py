"""The shape of an autograd graph: what was computed from what, and how often each parameter was used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from overparam_lib.kernels.layers import Use

__all__ = ["Structure", "structure"]


@dataclass(frozen=True)
class Structure:
    """A graph without its numbers.

    Attributes
    ----------
    key : hashable
        Equal for graphs of the same operations in the same order, between the same parameters and the same
        layers, with outputs of the same shapes. Constants of operations (a factor, a permutation) are no
        part of it.
    entries : Counter
        For each parameter's name the number of edges from operations to it.
    uses : Counter
        For each parameter's name the number of uses of the layers that own it, among those in the graph.
    """

    key: Hashable
    entries: Counter[str]
    uses: Counter[str]

    def strays(self) -> set[str]:
        """Return the parameters that enter the graph in another way than through their layers."""
        return {name for name, number in self.entries.items() if number != self.uses[name]}


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
    index, nodes, entries = {found[0]: 0}, [], Counter()
    for node in found:  # grows on the way
        children = []
        for child, slot in node.next_functions:
            if child is None:
                continue
            if child not in index:
                index[child] = len(found)
                found.append(child)
            children.append((index[child], slot))
        nodes.append((node.name(), tuple(children)))
    leaves = {index[node]: names.get(id(node.variable)) for node in found if _is_leaf(node)}
    for _, children in nodes:
        entries.update(leaves[child] for child, _ in children if leaves.get(child) is not None)
    places = tuple((use.name, index.get(use.edge.node), use.shape) for use in uses)
    key = (tuple(nodes), tuple(leaves.items()), tuple(outputs.shape), places)
    return Structure(key, entries, _owned(use for use in uses if use.edge.node in index))


def _is_leaf(node: object) -> bool:
    return type(node).__name__ == "AccumulateGrad"


def _owned(uses: Sequence[Use]) -> Counter[str]:
    return Counter(
        f"{use.name}.{own}".removeprefix(".")
        for use in uses
        for own, _ in use.module.named_parameters(recurse=False)
    )

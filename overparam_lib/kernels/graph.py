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
        layers, with outputs of the same shapes and inputs as they were given. Constants of operations (a
        factor, a permutation) are no part of it.
    entries : dict of str to int
        For each parameter's name the number of edges from operations to it.
    uses : list of Use
        The uses of layers that are in the graph.
    """

    key: Hashable
    entries: dict[str, int]
    uses: list[Use]

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
    index, nodes, entries = {found[0]: 0}, [], {}
    for node in found:  # grows on the way
        places = [node.name()]
        for child, slot in node.next_functions:
            if child is None:
                continue
            place = index.get(child)
            if place is None:
                place = index[child] = len(found)
                found.append(child)
            places += (place, slot)
            # A leaf has a variable; so may a function by hand, but it is no parameter.
            name = names.get(id(getattr(child, "variable", None)))
            if name is not None:
                entries[name] = entries.get(name, 0) + 1
                places.append(name)
        nodes.append(tuple(places))
    seen = tuple([(use.name, index.get(use.edge.node), use.shape, use.intact) for use in uses])
    return Structure(
        (tuple(nodes), outputs.shape, seen), entries, [use for use in uses if use.edge.node in index]
    )

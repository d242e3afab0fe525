"""The forms of a parameter's part of the Jacobian agree with the Jacobian, and with each other."""

import itertools

import pytest
import torch
from torch import nn

from overparam_lib.kernels.layers import Explicit, Lookups, Products, Shift, Vectors, collect, owners, watched
from overparam_lib.runtime import generator

DOUBLE = torch.float64


def drawn(*shape):
    return torch.randn(*shape, generator=generator(sum(shape)), dtype=DOUBLE)


def vectors(outputs=2):
    return Vectors(drawn(3, 5), drawn(3, outputs, 4))


def positions():
    return Products(drawn(3, 1, 1, 6, 5), drawn(3, 2, 1, 6, 4), (4, 5))


def lines():
    """Three lines of a kernel over seven lines of an image, every second one; two groups."""
    parts = tuple(slice(i, i + 5, 2) for i in range(3))
    return Products(drawn(3, 2, 7, 2, 6), drawn(3, 2, 2, 6, 4), (3, 8, 2, 3), (1, 3, 0, 2), parts)


def table():
    rows = torch.tensor([[0, 1, 1], [4, 4, 4], [2, 0, 3]])
    return Lookups(rows, drawn(3, 2, 3, 4), torch.Size((5, 4)))


TERMS = {
    "vectors": vectors,
    "positions": positions,
    "lines": lines,
    "table": table,
    "bias": lambda: Shift(vectors()),
    "explicit": lambda: Explicit(drawn(3, 2, 24), (4, 2, 3), (2, 0, 1)),
}


@pytest.mark.parametrize("name", TERMS)
def test_all_forms_agree(name):
    term, weights = TERMS[name](), drawn(3, 2)
    dense = term.explicit().jacobian
    assert dense.shape[:2] == (3, 2)
    expected = torch.einsum("icp,jdp->icjd", dense, dense)
    forms = (term, term.compact(), term.explicit())
    for one, two in itertools.product(forms, forms):
        torch.testing.assert_close(one.gram(two), expected, rtol=1e-12, atol=1e-12)
        total = torch.ones_like(expected)
        one.add_gram(two, total)
        torch.testing.assert_close(total, 1 + expected, rtol=1e-12, atol=1e-12)
    combined = torch.einsum("ic,icp->p", weights, dense)
    for form in forms:
        found = form.combine(weights)
        shape, order = getattr(form, "shape", found.shape), getattr(form, "order", None)
        own = combined.reshape(shape) if order is None else combined.reshape(shape).permute(order)
        torch.testing.assert_close(found, own, rtol=1e-12, atol=1e-12)
        start = drawn(*found.shape)
        left = start.clone()
        form.subtract(left, weights)
        torch.testing.assert_close(left, start - own, rtol=1e-12, atol=1e-12)


def test_vectors_are_positions_of_which_there_is_one():
    """They meet where the inputs of two batches differ in length."""
    term = vectors()
    one = Products(term.inputs[:, None, None, None], term.slopes[:, :, None, None], (4, 5))
    for left, right in itertools.product((term, one), repeat=2):
        torch.testing.assert_close(left.gram(right), term.gram(term), rtol=1e-13, atol=1e-13)
    other = positions()
    expected = term.explicit().gram(other.explicit())
    torch.testing.assert_close(term.gram(other), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(other.gram(term), expected.permute(2, 3, 0, 1), rtol=1e-13, atol=1e-13)


def test_by_lines_is_by_sums_over_positions():
    """The naive twin: δ ⊗ h, summed over positions and written out."""
    term = lines()
    dense = torch.zeros(3, 2, 3, 2, 4, 6, dtype=DOUBLE)  # sample, output, line of the kernel, group, b, a
    for part, line, place in itertools.product(range(3), range(3), range(2)):
        h = term.inputs[:, :, part + 2 * line, place]
        d = term.slopes[:, :, :, 2 * line + place]
        dense[:, :, part] += torch.einsum("icgb,iga->icgba", d, h)
    torch.testing.assert_close(term.explicit().jacobian, dense.flatten(2), rtol=1e-13, atol=1e-13)


def test_the_cheaper_of_pairs_and_jacobian_is_taken():
    few = Products(drawn(2, 1, 1, 2, 30), drawn(2, 1, 1, 2, 40), (40, 30))
    many = Products(drawn(2, 1, 1, 50, 3), drawn(2, 1, 1, 50, 4), (4, 3))
    assert few.compact() is few and isinstance(many.compact(), Explicit)
    for term in (few, many):
        expected = term.explicit().gram(term.explicit())
        torch.testing.assert_close(term.gram(term), expected, rtol=1e-11, atol=1e-11)


def test_a_change_in_place_of_a_layers_input_leaves_no_term():
    """Autograd itself only looks where it forms a weight's gradient."""
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    names = ["0.weight", "2.weight"]

    def covered():
        with watched(owners(net, names)) as uses:
            outputs = net(torch.ones(4, 3))
        return set(collect(outputs, uses, names).terms)

    assert covered() == set(names)
    net[0].register_forward_hook(lambda module, given, out: (given[0].mul_(2), None)[1])
    assert covered() == {"2.weight"}

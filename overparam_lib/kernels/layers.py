r"""What each layer of a network contributes to the Jacobian of its outputs, sample by sample.

The weight of a linear layer that maps :math:`h_{it}` to :math:`Wh_{it}`, at the positions t of sample i, has
the Jacobian :math:`\partial f_c(x_i)/\partial W=\sum_t\delta_{ict}h_{it}^\top`, where :math:`\delta_{ict}` is
the derivative of output c by the layer's output at t. So two samples' Jacobians have the inner product

.. math:: \sum_{t,t'}(\delta_{ict}\cdot\delta_{jc't'})\,(h_{it}\cdot h_{jt'}),

which needs no Jacobian: only the layers' inputs and output derivatives, from one forward pass and one
backward pass an output. Convolutions are linear layers of patches. Whether a parameter is really used in this
one way (and not also elsewhere, through a function or another layer) is not guessed but tested against
autograd.

Who runs the model does not matter: `watched` notes the layers' uses while any code runs it, and `collect`
turns them and the outputs into terms.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F

__all__ = [
    "Capture",
    "Explicit",
    "Term",
    "Use",
    "collect",
    "inner_products",
    "owners",
    "uncovered",
    "watched",
]


class Term(Protocol):
    """A parameter's part of the Jacobian, for n samples and k outputs."""

    def gram(self, other: Term) -> Tensor:
        """Return the inner products with another batch's term, shape (n1, k, n2, k)."""

    def add_gram(self, other: Term, total: Tensor) -> None:
        """Add those inner products to a tensor (n1, k, n2, k), in place."""

    def combine(self, weights: Tensor) -> Tensor:
        """Return the sum over samples and outputs with weights (n, k), in the parameter's shape."""

    def subtract(self, parameter: Tensor, weights: Tensor) -> None:
        """Subtract that sum from a tensor, in place."""

    def explicit(self) -> Explicit:
        """Return the Jacobian itself."""

    def compact(self) -> Term:
        """Return the form that is cheapest for a product with itself."""


def _inner(one: Tensor, two: Tensor) -> Tensor:
    """Return the inner products (n1, k1, n2, k2) of vectors (n1, k1, p) and (n2, k2, p)."""
    (n1, k1, p), (n2, k2, _) = one.shape, two.shape
    return (one.reshape(n1 * k1, p) @ two.reshape(n2 * k2, p).T).view(n1, k1, n2, k2)


def _ordered(found: Tensor, order: tuple[int, ...] | None) -> Tensor:
    return found if order is None else found.permute(order)


class _ByOthers:
    """What each term can do in place by doing it aside."""

    def add_gram(self, other: Term, total: Tensor) -> None:
        """Add the Gram matrix."""
        total.add_(self.gram(other))

    def subtract(self, parameter: Tensor, weights: Tensor) -> None:
        """Subtract the combination."""
        parameter.sub_(self.combine(weights))


@dataclass
class Explicit(_ByOthers):
    """The Jacobian itself, shape (n, k, p); `shape` and `order` as in `Products`."""

    jacobian: Tensor
    shape: tuple[int, ...]
    order: tuple[int, ...] | None = None

    def gram(self, other: Term) -> Tensor:
        """Multiply the Jacobians."""
        other = other.explicit()
        if (self.order, tuple(self.shape)) == (other.order, tuple(other.shape)):
            return _inner(self.jacobian, other.jacobian)
        return _inner(self._natural(), other._natural())

    def combine(self, weights: Tensor) -> Tensor:
        """Sum the rows."""
        rows = self.jacobian.flatten(0, 1)
        return _ordered((weights.reshape(-1) @ rows).view(self.shape), self.order)

    def _natural(self) -> Tensor:
        """Return the Jacobian (n, k, p) laid out as the parameter is."""
        if self.order is None:
            return self.jacobian
        order = (0, 1, *(2 + dimension for dimension in self.order))
        return self.jacobian.unflatten(2, self.shape).permute(order).flatten(2)

    def explicit(self) -> Explicit:
        """Return itself."""
        return self

    def compact(self) -> Explicit:
        """Return itself: there is no other form."""
        return self


@dataclass
class Products(_ByOthers):
    """Sums over positions of δ ⊗ h, for g groups of channels.

    The `inputs` h have shape (n, g, l, t, a) and the `slopes` δ (n, k, g, t', b). The inputs have lines l
    of positions t. Each slice of lines in `parts` gives all t' positions and a part of h: a layer of vectors
    has one, a convolution one for each line of its kernel, and they overlap. The sums, laid out as
    (part, g, b, a), are viewed in `shape`, whose dimensions in `order` are the parameter's.
    """

    inputs: Tensor
    slopes: Tensor
    shape: tuple[int, ...]
    order: tuple[int, ...] | None = None
    parts: tuple[slice, ...] = (slice(None),)

    def gram(self, other: Products | Vectors | Explicit) -> Tensor:
        """Take the cheaper of two ways: pairs of positions, or the Jacobian itself."""
        if not isinstance(other, Products):
            return self.explicit().gram(other)
        if self._pairs_are_cheaper(other):
            pairs = zip(self._split(), other._split(), strict=True)
            inner = sum(torch.einsum("igta,jgsa->gitjs", one, two) for one, two in pairs)
            slopes = torch.einsum("icgtb,jdgsb->gicjdts", self.slopes, other.slopes)
            return torch.einsum("gitjs,gicjdts->icjd", inner, slopes)
        return self.explicit().gram(other)

    def combine(self, weights: Tensor) -> Tensor:
        """Sum the rows without forming them."""
        slopes = torch.einsum("ic,icgtb->igtb", weights, self.slopes)
        found = torch.stack([torch.einsum("igtb,igta->gba", slopes, part) for part in self._split()])
        return _ordered(found.reshape(self.shape), self.order)

    def explicit(self) -> Explicit:
        """Form the Jacobian."""
        n, k, groups, t, b = self.slopes.shape
        slopes = self.slopes.permute(0, 2, 1, 4, 3).reshape(n * groups, k * b, t)
        found = [torch.bmm(slopes, part.flatten(0, 1)).view(n, groups, k, -1) for part in self._split()]
        jacobian = torch.stack(found, dim=1).permute(0, 3, 1, 2, 4)
        return Explicit(jacobian.reshape(n, k, -1), self.shape, self.order)

    def compact(self) -> Products | Explicit:
        """Form the Jacobian if its product with itself is cheaper than pairs of positions."""
        return self if self._pairs_are_cheaper(self) else self.explicit()

    def _split(self) -> list[Tensor]:
        """Return the parts, (n, g, t', a) each, of one copy at most if each takes lines in a row."""
        inputs = self.inputs.contiguous()
        return [inputs[:, :, lines].flatten(2, 3) for lines in self.parts]

    def _pairs_are_cheaper(self, other: Products) -> bool:
        (n1, k, _, t1, b), (n2, *_, t2, _) = self.slopes.shape, other.slopes.shape
        a = self.inputs.shape[-1] * len(self.parts)
        by_pairs = n1 * n2 * t1 * t2 * (a + k * k * (b + 1))
        by_jacobian = k * (n1 * t1 + n2 * t2) * a * b + n1 * n2 * k * k * a * b
        return by_pairs < by_jacobian


@dataclass
class Vectors(_ByOthers):
    """δ ⊗ h of a layer of vectors, whose weight is (b, a): `inputs` h (n, a) and `slopes` δ (n, k, b)."""

    inputs: Tensor
    slopes: Tensor
    _last: tuple[weakref.ref, Tensor] | None = field(default=None, init=False, repr=False)

    def gram(self, other: Vectors | Products | Explicit) -> Tensor:
        """Multiply the inner products of the slopes by those of the inputs."""
        if not isinstance(other, Vectors):
            return self.explicit().gram(other)
        return self.slopes_gram(other) * self._inputs_gram(other)

    def add_gram(self, other: Vectors | Products | Explicit, total: Tensor) -> None:
        """Add that product without forming it."""
        if isinstance(other, Vectors):
            total.addcmul_(self.slopes_gram(other), self._inputs_gram(other))
        else:
            super().add_gram(other, total)

    def combine(self, weights: Tensor) -> Tensor:
        """Sum the rows without forming them."""
        return self._weighted(weights).T @ self.inputs

    def subtract(self, parameter: Tensor, weights: Tensor) -> None:
        """Subtract the combination without forming it."""
        parameter.addmm_(self._weighted(weights).T, self.inputs, alpha=-1)

    def explicit(self) -> Explicit:
        """Form the Jacobian."""
        jacobian = torch.einsum("icb,ia->icba", self.slopes, self.inputs)
        return Explicit(jacobian.flatten(2), jacobian.shape[2:])

    def compact(self) -> Vectors:
        """Return itself: nothing is cheaper."""
        return self

    def slopes_gram(self, other: Vectors) -> Tensor:
        """Return the inner products of the slopes alone, (n1, k, n2, k); the bias asks for the same ones."""
        if self._last is None or self._last[0]() is not other:
            # Weakly: a reference to itself would keep its tensors until the next garbage collection.
            self._last = (weakref.ref(other), _inner(self.slopes, other.slopes))
        return self._last[1]

    def _inputs_gram(self, other: Vectors) -> Tensor:
        return (self.inputs @ other.inputs.T).view(len(self.inputs), 1, len(other.inputs), 1)

    def _weighted(self, weights: Tensor) -> Tensor:
        if self.slopes.shape[1] == 1:
            return self.slopes.squeeze(1) * weights
        return (self.slopes * weights[:, :, None]).sum(dim=1)


@dataclass
class Shift(_ByOthers):
    """The bias beside the weight of a layer of vectors: δ."""

    vectors: Vectors

    def gram(self, other: Shift | Explicit) -> Tensor:
        """Multiply the slopes."""
        if isinstance(other, Explicit):
            return self.explicit().gram(other)
        return self.vectors.slopes_gram(other.vectors)

    def combine(self, weights: Tensor) -> Tensor:
        """Sum the slopes."""
        return weights.reshape(-1) @ self.vectors.slopes.flatten(0, 1)

    def subtract(self, parameter: Tensor, weights: Tensor) -> None:
        """Subtract that sum without forming it."""
        parameter.addmv_(self.vectors.slopes.flatten(0, 1).T, weights.reshape(-1), alpha=-1)

    def explicit(self) -> Explicit:
        """Return the slopes."""
        return Explicit(self.vectors.slopes, self.vectors.slopes.shape[2:])

    def compact(self) -> Shift:
        """Return itself: the slopes are the weight's."""
        return self


@dataclass
class Lookups(_ByOthers):
    """Sums over positions of δ at the row that was looked up: `rows` (n, t), `slopes` (n, k, t, b)."""

    rows: Tensor
    slopes: Tensor
    shape: torch.Size

    def gram(self, other: Lookups | Explicit) -> Tensor:
        """Add the inner products of slopes over pairs of positions that looked up the same row."""
        if isinstance(other, Explicit):
            return self.explicit().gram(other)
        same = (self.rows[:, :, None, None] == other.rows).to(self.slopes)
        return torch.einsum("itjs,ictb,jdsb->icjd", same, self.slopes, other.slopes)

    def combine(self, weights: Tensor) -> Tensor:
        """Sum the slopes of each row."""
        slopes = torch.einsum("ic,ictb->itb", weights, self.slopes)
        return slopes.new_zeros(self.shape).index_add_(0, self.rows.flatten(), slopes.flatten(0, 1))

    def explicit(self) -> Explicit:
        """Write the slopes into the rows."""
        n, k, _, b = self.slopes.shape
        jacobian = self.slopes.new_zeros(n, k, self.shape[0], b)
        rows = self.rows[:, None, :, None].expand_as(self.slopes)
        return Explicit(jacobian.scatter_add_(2, rows, self.slopes).flatten(2), self.shape)

    def compact(self) -> Lookups:
        """Return itself: a vocabulary is large."""
        return self


@dataclass
class Capture:
    """A batch seen by the network.

    Attributes
    ----------
    outputs : Tensor of shape (n, k)
        The outputs, part of the graph.
    terms : dict of str to list of Term
        For each parameter's name the terms of the layers that own it, one a use.
    scalar : bool
        Whether the outputs' shape was (n,).
    """

    outputs: Tensor
    terms: dict[str, list[Term]]
    scalar: bool


@dataclass
class Use:
    """A call of a layer.

    Attributes
    ----------
    name : str
        The layer's name in the model.
    module : torch.nn.Module
        The layer.
    given : Tensor
        Its input.
    version : int
        How often `given` had been changed in place; if it has been since, the use is not to be trusted.
    edge : GradientEdge
        The place in the graph where the derivative by the layer's output is found, whatever follows.
    shape : torch.Size
        The output's shape.
    dtype : torch.dtype
        The output's type.
    """

    name: str
    module: nn.Module
    given: Tensor
    version: int
    edge: GradientEdge
    shape: torch.Size
    dtype: torch.dtype

    @property
    def intact(self) -> bool:
        """Whether the input is still what the layer was given."""
        return self.given._version == self.version


def owners(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules, by name, that own one of the named parameters."""
    wanted = set(names)
    return {
        name: module
        for name, module in model.named_modules()
        if any(
            f"{name}.{own}".removeprefix(".") in wanted for own, _ in module.named_parameters(recurse=False)
        )
    }


@contextmanager
def watched(modules: dict[str, nn.Module]) -> Iterator[list[Use]]:
    """Note the uses of modules by whatever runs in the context, as long as it runs."""
    uses: list[Use] = []

    def watch(name: str):
        def hook(module: nn.Module, given: tuple, out: object) -> Tensor | None:
            if len(given) != 1 or not isinstance(given[0], Tensor) or not isinstance(out, Tensor):
                return None
            if not out.requires_grad:
                return None
            # A change in place of a view goes round the view's node; of another tensor, it comes after.
            seen = out.clone() if out._is_view() else out
            edge = get_gradient_edge(seen)
            uses.append(Use(name, module, given[0], given[0]._version, edge, seen.shape, seen.dtype))
            return seen

        return hook

    # First in line, so that what other hooks do to the output comes after.
    handles = [module.register_forward_hook(watch(name), prepend=True) for name, module in modules.items()]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


def collect(
    outputs: Tensor,
    uses: Sequence[Use],
    names: Sequence[str],
    *,
    retain_graph: bool = True,
    compact: bool = False,
) -> Capture:
    """Run backward from outputs, once for each of a sample's, and collect the terms of the named parameters.

    Parameters
    ----------
    outputs : Tensor of shape (n,) or (n, k)
        What was computed from the layers' outputs, with its graph; any function of a sample's alone.
    uses : sequence of Use
        The uses of layers; those with another length than the outputs' have no terms.
    names : sequence of str
        Names of parameters.
    retain_graph : bool, default True
        Whether the graph is kept for `uncovered`, or for other derivatives.
    compact : bool, default False
        Whether each term takes, at once, the form that is cheapest for its product with itself, and stays
        what it is when the parameters are moved.

    Returns
    -------
    Capture
        A name without a layer that is known has no term.
    """
    wanted, n = set(names), len(outputs)
    with torch.enable_grad():
        columns = outputs.reshape(n, -1)
    uses = [use for use in uses if use.shape[:1] == (n,) and use.intact]
    edges, rows, k = [use.edge for use in uses], [], columns.shape[1]
    for c in range(k):
        how = {"retain_graph": retain_graph or c + 1 < k, "allow_unused": True}
        rows.append(torch.autograd.grad(outputs, edges, _column(outputs, c), **how) if edges else ())
    terms: dict[str, list[Term]] = {}
    for index, use in enumerate(uses):
        given = use.given.detach()
        if compact and _is_a_parameter(use.given, uses):
            given = given.clone()  # it may be moved before the term is used
        slopes = [outputs.new_zeros(use.shape) if row[index] is None else row[index] for row in rows]
        # One output's slopes are not copied.
        stacked = slopes[0].unsqueeze(1) if len(slopes) == 1 else torch.stack(slopes, dim=1)
        if use.dtype != outputs.dtype:  # the network computes in another type
            given = given.to(outputs.dtype) if given.is_floating_point() else given
            stacked = stacked.to(outputs.dtype)
        for own, term in _terms(use.module, given, stacked).items():
            name = f"{use.name}.{own}".removeprefix(".")
            if name in wanted:
                terms.setdefault(name, []).append(term.compact() if compact else term)
    return Capture(columns, terms, outputs.ndim == 1)


def inner_products(first: dict[str, list[Term]], second: dict[str, list[Term]], total: Tensor) -> Tensor:
    """Add the inner products of two Jacobians, over all parameters and pairs of uses, to (n1, k, n2, k)."""
    for name, terms in first.items():
        for one in terms:
            for two in second.get(name, ()):
                one.add_gram(two, total)
    return total


def _column(outputs: Tensor, c: int) -> Tensor:
    """Return the weights that choose each sample's output c."""
    if outputs.numel() == len(outputs):
        return torch.ones_like(outputs)
    weights = torch.zeros_like(outputs)
    weights[:, c] = 1
    return weights


def _is_a_parameter(given: Tensor, uses: Sequence[Use]) -> bool:
    """Tell whether a tensor shares its memory with a parameter of the layers."""
    if not (given.is_leaf or given._is_view()):  # it was computed
        return False
    storage = given.untyped_storage()
    start = storage.data_ptr()
    inside = range(start, start + storage.nbytes())
    return any(p.data_ptr() in inside for use in uses for p in use.module.parameters(recurse=False))


def uncovered(captured: Capture, parameters: dict[str, Tensor], generator: torch.Generator) -> list[str]:
    """Return the names of the parameters whose terms do not add up to what autograd says.

    A random combination of all samples' and outputs' gradients is compared: a parameter that is used in a
    second way, or whose samples do not lie along the first dimension, does not pass.

    Parameters
    ----------
    captured : Capture
        With its graph.
    parameters : dict of str to Tensor
        The parameters by name.
    generator : torch.Generator
        Source of the weights.
    """
    weights = torch.randn(captured.outputs.shape, generator=generator, device=generator.device)
    weights = weights.to(captured.outputs)
    true = torch.autograd.grad(
        captured.outputs, list(parameters.values()), weights, retain_graph=True, allow_unused=True
    )
    # Rounding, of a gradient and of what cancels in one that is zero; a missing use is far larger.
    types = {captured.outputs.dtype, *(parameter.dtype for parameter in parameters.values())}
    own, total = (1e-4, 1e-6) if torch.float32 in types else (1e-9, 1e-13)
    total *= sum(gradient.norm() for gradient in true if gradient is not None)
    wrong = []
    for (name, parameter), gradient in zip(parameters.items(), true, strict=True):
        terms = captured.terms.get(name)
        if gradient is None and not terms:  # not used: no layer, no part
            captured.terms[name] = []
            continue
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        found = (
            sum(term.combine(weights) for term in terms) if terms else torch.full_like(gradient, torch.nan)
        )
        if not (found - gradient).norm() <= own * gradient.norm() + total:
            wrong.append(name)
    return wrong


def _terms(module: nn.Module, given: Tensor, slopes: Tensor) -> dict[str, Term]:
    """Return the terms of a layer's own parameters; none for a layer that is not known.

    `given` is (n, …), `slopes` (n, k, …) with the layer's output behind.
    """
    # Exactly these types: a subclass may do something else with its weight.
    if type(module) is nn.Linear and given.ndim >= 2:
        return _linear(module, given, slopes)
    if type(module) in (nn.Conv1d, nn.Conv2d) and module.padding_mode == "zeros":
        return _convolution(module, given, slopes)
    if type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq:
        return _embedding(module, given, slopes)
    if type(module) is nn.LayerNorm and given.ndim > len(module.normalized_shape):
        return _layer_norm(module, given, slopes)
    if type(module) is nn.GroupNorm:
        return _group_norm(module, given, slopes)
    return {}


def _linear(module: nn.Linear, given: Tensor, slopes: Tensor) -> dict[str, Term]:
    n, k = slopes.shape[:2]
    if given.ndim > 2 and given.shape[1:-1].numel() == 1:  # one position
        given, slopes = given.reshape(n, -1), slopes.reshape(n, k, -1)
    if given.ndim == 2:
        vectors = Vectors(given, slopes)
        bias = {} if module.bias is None else {"bias": Shift(vectors)}
        return {"weight": vectors, **bias}
    inputs = given.reshape(n, 1, 1, -1, module.in_features)
    slopes = slopes.reshape(n, k, 1, -1, module.out_features)
    return _with_bias(module, Products(inputs, slopes, module.weight.shape))


def _convolution(module: nn.Conv1d | nn.Conv2d, given: Tensor, slopes: Tensor) -> dict[str, Term]:
    flat = type(module) is nn.Conv1d
    if given.ndim != (3 if flat else 4):
        return {}
    (down, _), (height, width), (step, _) = (
        (1, *size) if flat else size for size in (module.dilation, module.kernel_size, module.stride)
    )
    runs = _runs(module, given.unsqueeze(2) if flat else given, flat)
    n, k, groups, channels = *slopes.shape[:2], module.groups, module.in_channels // module.groups
    inputs = runs.unflatten(4, (groups, channels)).permute(0, 4, 1, 2, 3, 5)
    inputs = inputs.reshape(n, groups, *runs.shape[1:3], width * channels)
    slopes = slopes.reshape(n, k, groups, module.out_channels // groups, -1).transpose(3, 4)
    last = runs.shape[1] - down * (height - 1)  # lines that a line of the kernel meets
    parts = tuple(slice(down * i, down * i + last, step) for i in range(height))
    if flat:
        shape, order = (module.out_channels, width, channels), (0, 2, 1)
    else:
        shape, order = (height, module.out_channels, width, channels), (1, 3, 0, 2)
    return _with_bias(module, Products(inputs, slopes, shape, order, parts))


def _runs(module: nn.Conv1d | nn.Conv2d, image: Tensor, flat: bool) -> Tensor:
    """Return what each line of the kernel meets, a view (n, lines, places, kernel width, channels)."""
    kernel, stride, dilation = (
        (1, *size) if flat else tuple(size) for size in (module.kernel_size, module.stride, module.dilation)
    )
    if isinstance(module.padding, str):
        total = [d * (size - 1) for d, size in zip(dilation, kernel, strict=True)]
        both = [(part // 2, part - part // 2) for part in total]  # the odd pixel goes to the end
        (top, bottom), (left, right) = both if module.padding == "same" else ((0, 0), (0, 0))
    else:
        top, left = (0, *module.padding) if flat else module.padding
        bottom, right = top, left
    # Channels last: runs of them are copied several times faster than single numbers.
    image = F.pad(image.permute(0, 2, 3, 1), (0, 0, left, right, top, bottom))
    windows = image.unfold(2, dilation[1] * (kernel[1] - 1) + 1, stride[1])[..., :: dilation[1]]
    return windows.transpose(3, 4)


def _with_bias(module: nn.Module, weight: Products) -> dict[str, Term]:
    terms: dict[str, Term] = {"weight": weight}
    if module.bias is not None:
        terms["bias"] = Explicit(weight.slopes.sum(dim=3).flatten(2), module.bias.shape)
    return terms


def _embedding(module: nn.Embedding, given: Tensor, slopes: Tensor) -> dict[str, Term]:
    n, k = slopes.shape[:2]
    rows, slopes = given.reshape(n, -1), slopes.reshape(n, k, -1, module.embedding_dim)
    if module.padding_idx is not None:
        slopes = slopes * (rows != module.padding_idx)[:, None, :, None]
    return {"weight": Lookups(rows, slopes, module.weight.shape)}


def _layer_norm(module: nn.LayerNorm, given: Tensor, slopes: Tensor) -> dict[str, Term]:
    shape = module.normalized_shape
    normal = F.layer_norm(given, shape, eps=module.eps).reshape(len(given), 1, -1, *shape)
    return _scale_and_shift(module, normal, slopes.reshape(*slopes.shape[:2], -1, *shape))


def _group_norm(module: nn.GroupNorm, given: Tensor, slopes: Tensor) -> dict[str, Term]:
    n, k, channels = *slopes.shape[:2], module.num_channels
    normal = F.group_norm(given, module.num_groups, eps=module.eps).reshape(n, 1, channels, -1)
    slopes = slopes.reshape(n, k, channels, -1)
    return _scale_and_shift(module, normal.transpose(2, 3), slopes.transpose(2, 3))


def _scale_and_shift(module: nn.Module, normal: Tensor, slopes: Tensor) -> dict[str, Term]:
    terms: dict[str, Term] = {}
    if module.weight is not None:
        terms["weight"] = Explicit((slopes * normal).sum(dim=2).flatten(2), module.weight.shape)
    if getattr(module, "bias", None) is not None:
        terms["bias"] = Explicit(slopes.sum(dim=2).flatten(2), module.bias.shape)
    return terms

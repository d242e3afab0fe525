r"""What each layer of a network contributes to the Jacobian of its outputs, sample by sample.

The weight of a linear layer that maps :math:`h_{it}` to :math:`Wh_{it}`, at the positions t of sample i, has
the Jacobian :math:`\partial f_c(x_i)/\partial W=\sum_t\delta_{ict}h_{it}^\top`, where :math:`\delta_{ict}` is
the derivative of output c by the layer's output at t. So two samples' Jacobians have the inner product

.. math:: \sum_{t,t'}(\delta_{ict}\cdot\delta_{jc't'})\,(h_{it}\cdot h_{jt'}),

which needs no Jacobian: only the layers' inputs and output derivatives, from one forward pass and one
backward pass an output. Convolutions are linear layers of patches. Whether a parameter is really used in this
one way (and not also elsewhere, through a function or another layer) is not guessed but tested against
autograd.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Capture", "Term", "capture", "uncovered"]


class Term(Protocol):
    """A parameter's part of the Jacobian, for n samples and k outputs."""

    def gram(self, other: Term) -> Tensor:
        """Return the inner products with another batch's term, shape (n1, k, n2, k)."""

    def combine(self, weights: Tensor) -> Tensor:
        """Return the sum over samples and outputs with weights (n, k), in the parameter's shape."""


@dataclass
class Explicit:
    """The Jacobian itself, shape (n, k, p)."""

    jacobian: Tensor
    shape: torch.Size

    def gram(self, other: Explicit) -> Tensor:
        """Multiply the Jacobians."""
        return torch.einsum("icp,jdp->icjd", self.jacobian, other.jacobian)

    def combine(self, weights: Tensor) -> Tensor:
        """Sum the rows."""
        return torch.einsum("ic,icp->p", weights, self.jacobian).reshape(self.shape)


@dataclass
class Products:
    """Sums over positions of δ ⊗ h: `inputs` (n, g, t, a), `slopes` (n, k, g, t, b); g groups of channels."""

    inputs: Tensor
    slopes: Tensor
    shape: torch.Size

    def gram(self, other: Products) -> Tensor:
        """Take the cheapest of three ways: one position, pairs of positions, or the Jacobian itself."""
        n1, groups, t1, a = self.inputs.shape
        n2, t2 = other.inputs.shape[0], other.inputs.shape[2]
        k, b = self.slopes.shape[1], self.slopes.shape[-1]
        if groups == t1 == t2 == 1:
            inner = self.inputs[:, 0, 0] @ other.inputs[:, 0, 0].T
            slopes = self.slopes.reshape(n1 * k, b) @ other.slopes.reshape(n2 * k, b).T
            return slopes.view(n1, k, n2, k) * inner[:, None, :, None]
        by_pairs = n1 * n2 * t1 * t2 * (a + k * k * (b + 1))
        by_jacobian = k * (n1 * t1 + n2 * t2) * a * b + n1 * n2 * k * k * a * b
        if by_pairs < by_jacobian:
            inner = torch.einsum("igta,jgsa->gitjs", self.inputs, other.inputs)
            slopes = torch.einsum("icgtb,jdgsb->gicjdts", self.slopes, other.slopes)
            return torch.einsum("gitjs,gicjdts->icjd", inner, slopes)
        return Explicit(self._jacobian(), self.shape).gram(Explicit(other._jacobian(), self.shape))

    def combine(self, weights: Tensor) -> Tensor:
        """Sum the rows without forming them."""
        slopes = torch.einsum("ic,icgtb->igtb", weights, self.slopes)
        return torch.einsum("igtb,igta->gba", slopes, self.inputs).reshape(self.shape)

    def _jacobian(self) -> Tensor:
        return torch.einsum("icgtb,igta->icgba", self.slopes, self.inputs).flatten(2)


@dataclass
class Lookups:
    """Sums over positions of δ at the row that was looked up: `rows` (n, t), `slopes` (n, k, t, b)."""

    rows: Tensor
    slopes: Tensor
    shape: torch.Size

    def gram(self, other: Lookups) -> Tensor:
        """Add the inner products of slopes over pairs of positions that looked up the same row."""
        same = (self.rows[:, :, None, None] == other.rows).to(self.slopes)
        return torch.einsum("itjs,ictb,jdsb->icjd", same, self.slopes, other.slopes)

    def combine(self, weights: Tensor) -> Tensor:
        """Sum the slopes of each row."""
        slopes = torch.einsum("ic,ictb->itb", weights, self.slopes)
        return slopes.new_zeros(self.shape).index_add_(0, self.rows.flatten(), slopes.flatten(0, 1))


@dataclass
class Capture:
    """A batch seen by the network.

    Attributes
    ----------
    outputs : Tensor of shape (n, k)
        The outputs, part of the graph.
    terms : dict of str to list of Term
        For each parameter's name the terms of the layers that own it, one a use.
    """

    outputs: Tensor
    terms: dict[str, list[Term]]


def capture(model: nn.Module, x: Tensor, names: Sequence[str]) -> Capture:
    """Run a batch forward, and backward once an output, and collect the terms of the named parameters.

    Parameters
    ----------
    model : torch.nn.Module
        A network with outputs of shape (n,) or (n, k).
    x : Tensor of shape (n, …)
        The batch.
    names : sequence of str
        Names of parameters, as in ``model.named_parameters()``.

    Returns
    -------
    Capture
        A name without a layer that is known has no term.

    Raises
    ------
    ValueError
        If the outputs have another shape.
    """
    wanted = set(names)
    owners = {
        name: module
        for name, module in model.named_modules()
        if any(
            f"{name}.{own}".removeprefix(".") in wanted for own, _ in module.named_parameters(recurse=False)
        )
    }
    uses: list[tuple[str, Tensor, Tensor]] = []
    with _watched(owners, uses), torch.enable_grad():
        outputs = model(x)
        columns = outputs.reshape(len(outputs), -1) if outputs.ndim else outputs
    if outputs.ndim not in (1, 2) or len(outputs) != len(x):
        raise ValueError(
            f"model must have outputs of shape ({len(x)},) or ({len(x)}, k), got {tuple(outputs.shape)}"
        )
    uses = [use for use in uses if use[2].requires_grad and len(use[2]) == len(x)]
    made = [out for *_, out in uses]
    with torch.enable_grad():
        sums = columns.sum(dim=0).unbind()
    rows = [
        torch.autograd.grad(one, made, retain_graph=True, allow_unused=True) if made else () for one in sums
    ]
    terms: dict[str, list[Term]] = {}
    for index, (name, given, out) in enumerate(uses):
        slopes = [torch.zeros_like(out) if row[index] is None else row[index] for row in rows]
        found = _terms(owners[name], given.detach(), torch.stack(slopes, dim=1))
        for own, term in found.items():
            terms.setdefault(f"{name}.{own}".removeprefix("."), []).append(term)
    return Capture(columns, {name: found for name, found in terms.items() if name in wanted})


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
    own, total = (1e-4, 1e-6) if captured.outputs.dtype == torch.float32 else (1e-9, 1e-13)
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


@contextmanager
def _watched(owners: dict[str, nn.Module], uses: list) -> Iterator[None]:
    def watch(name: str):
        def hook(module: nn.Module, given: tuple, out: object) -> Tensor | None:
            if len(given) != 1 or not isinstance(given[0], Tensor) or not isinstance(out, Tensor):
                return None
            uses.append((name, given[0], out))
            return out.clone()  # what follows may change it in place

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in owners.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
    if type(module) is nn.LayerNorm:
        return _layer_norm(module, given, slopes)
    if type(module) is nn.GroupNorm:
        return _group_norm(module, given, slopes)
    return {}


def _linear(module: nn.Linear, given: Tensor, slopes: Tensor) -> dict[str, Term]:
    n, k = slopes.shape[:2]
    inputs = given.reshape(n, 1, -1, module.in_features)
    slopes = slopes.reshape(n, k, 1, -1, module.out_features)
    return _weight_and_bias(module, inputs, slopes)


def _convolution(module: nn.Conv1d | nn.Conv2d, given: Tensor, slopes: Tensor) -> dict[str, Term]:
    flat = type(module) is nn.Conv1d
    if given.ndim != (3 if flat else 4):
        return {}
    n, k = slopes.shape[:2]
    patches = _patches(module, given.unsqueeze(2) if flat else given, flat)  # (n, channels · kernel, t)
    if patches is None or patches.shape[2] != slopes.flatten(3).shape[3]:
        return {}
    groups = module.groups
    inputs = patches.reshape(n, groups, -1, patches.shape[2]).transpose(2, 3)
    slopes = slopes.reshape(n, k, groups, module.out_channels // groups, -1).transpose(3, 4)
    return _weight_and_bias(module, inputs, slopes)


def _patches(module: nn.Conv1d | nn.Conv2d, image: Tensor, flat: bool) -> Tensor | None:
    kernel, stride, dilation = (
        (1, *size) if flat else tuple(size) for size in (module.kernel_size, module.stride, module.dilation)
    )
    if isinstance(module.padding, str):
        if module.padding == "same":  # the odd pixel goes to the end
            total = [d * (size - 1) for d, size in zip(dilation, kernel, strict=True)]
            (top, left) = (part // 2 for part in total)
            image = F.pad(image, (left, total[1] - left, top, total[0] - top))
        padding = (0, 0)
    else:
        padding = (0, *module.padding) if flat else tuple(module.padding)
    return F.unfold(image, kernel, dilation=dilation, padding=padding, stride=stride)


def _weight_and_bias(module: nn.Module, inputs: Tensor, slopes: Tensor) -> dict[str, Term]:
    terms: dict[str, Term] = {"weight": Products(inputs, slopes, module.weight.shape)}
    if module.bias is not None:
        terms["bias"] = Explicit(slopes.sum(dim=3).flatten(2), module.bias.shape)
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

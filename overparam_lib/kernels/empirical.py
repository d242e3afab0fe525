r"""The neural tangent kernel of a network as it is, at finite width."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from overparam_lib.kernels.graph import structure
from overparam_lib.kernels.layers import (
    Capture,
    Explicit,
    collect,
    inner_products,
    owners,
    uncovered,
    watched,
)

__all__ = ["EmpiricalNTK"]

_GIB = 2**30
_GRAPHS = 64  # whose check is remembered
_PLAIN = (bool, int, float, complex, str, tuple, type(None))  # attributes that repr tells apart


class _Present(NamedTuple):
    """The parameters by name, and what tells the model's state now from that at another call."""

    parameters: dict[str, nn.Parameter]
    key: Hashable


class EmpiricalNTK:
    r"""The kernel of a network's gradients, for any module and any number of outputs.

    .. math:: \Theta_{cc'}(x,x')=\langle\nabla_\theta f_c(x),\nabla_\theta f_{c'}(x')\rangle

    Evaluated layer by layer from the layers' inputs and output derivatives, without forming the Jacobian, for
    `Linear`, `Conv1d`, `Conv2d`, `Embedding`, `LayerNorm` and `GroupNorm`, shared or not. It is tested
    against autograd which parameters are covered in this way; all others (bare parameters, tied weights,
    layers that are not known) go through Jacobians of single samples. The test is made at every call, unless
    all operations of the network are known to keep the samples apart, as those of common feedforward and
    convolutional networks are: then once, until its modes, its parameters or buffers, or its graph of
    operations have changed. (A write through ``.data`` is not seen.) In float32 the test is to four digits;
    TF32, which PyTorch allows for convolutions on GPUs, rounds to three, so layers that fail by that go
    through Jacobians, and ``torch.backends.cudnn.allow_tf32 = False`` is the cure.

    Parameters
    ----------
    model : torch.nn.Module
        A network whose outputs have shape (n,) or (n, k), each row depending on its own input only. It is
        not changed, and evaluated as it is when the kernel is called.
    params : iterable of str or of torch.nn.Parameter, optional
        The parameters θ, or their names. All that require a gradient by default.
    max_memory : float, default 1.0
        GiB for the intermediate results; the result itself comes on top. Smaller blocks of samples are
        taken to keep to it, and do not change the result.

    Attributes
    ----------
    by_jacobian : tuple of str
        After a call: the names of the parameters that went through Jacobians.

    Raises
    ------
    ValueError
        If a parameter is not the model's, does not require a gradient, or there is none.

    Examples
    --------
    >>> net = nn.Linear(2, 1, bias=False)
    >>> EmpiricalNTK(net)(torch.eye(2)).squeeze()
    tensor([[1., 0.],
            [0., 1.]])
    """

    def __init__(
        self, model: nn.Module, params: Iterable[str | nn.Parameter] | None = None, *, max_memory: float = 1.0
    ) -> None:
        if not max_memory > 0:
            raise ValueError(f"max_memory must be positive, in GiB, got {max_memory!r}")
        self.model, self.max_memory = model, max_memory
        self.names, self._chosen = _names(model, params), params is not None
        self.by_jacobian: tuple[str, ...] = ()
        # A layer that is put into the model later is not watched, so its parameters go through Jacobians.
        self._owners = owners(model, self.names)
        self._checked: dict[Hashable, frozenset[str]] = {}
        self._each: dict[torch.Size, float] = {}  # bytes that a sample of this shape takes

    def __call__(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """Evaluate the kernel.

        Parameters
        ----------
        x1 : Tensor of shape (n1, …)
            Inputs of the model.
        x2 : Tensor of shape (n2, …), optional
            Other inputs; None for the symmetric case.

        Returns
        -------
        Tensor
            Shape (n1, n2) if the outputs have shape (n,), else (n1, n2, k, k), with the outputs' type.

        Raises
        ------
        ValueError
            If a row of the outputs depends on other samples, as in batch normalization while training, or is
            random, as with dropout; if outputs have another shape; if an input is empty or gives NaN; if the
            model computes in less than float32.
        """
        for name, x in (("x1", x1), ("x2", x2)):
            if x is not None and (x.ndim < 1 or len(x) == 0):
                raise ValueError(f"{name} must hold at least one input, got shape {tuple(x.shape)}")
        now = self._present()
        other = x1 if x2 is None else x2
        rows = self._rows(x1, now)
        blocks1, blocks2 = range(0, len(x1), rows), range(0, len(other), rows)
        by_jacobian: set[str] = set()
        out = None
        for i in blocks1:
            first = self._block(x1[i : i + rows], now, by_jacobian)
            for j in blocks2:
                if x2 is None and j < i:
                    continue
                same = x2 is None and i == j
                second = first if same else self._block(other[j : j + rows], now, by_jacobian)
                part = _product(first, second).permute(0, 2, 1, 3)
                if same:
                    part = (part + part.permute(1, 0, 3, 2)) / 2  # symmetric to the last digit
                if out is None:
                    if len(blocks1) == len(blocks2) == 1:
                        out = part.contiguous()
                        break
                    out = part.new_empty(len(x1), len(other), *part.shape[2:])
                out[i : i + rows, j : j + rows] = part
                if x2 is None and not same:
                    out[j : j + rows, i : i + rows] = part.permute(1, 0, 3, 2)
        self.by_jacobian = tuple(name for name in self.names if name in by_jacobian)
        return out[:, :, 0, 0] if first.scalar else out

    def fingerprint(self) -> str:
        """Return a text that tells this network with its weights from others.

        What is in a module beside parameters, buffers, numbers, texts and modules (a function, a list) is not
        told apart, nor is its code.

        Returns
        -------
        str
            The names of the parameters, and a SHA-256 of the modules with their plain attributes, the
            parameters and the buffers.
        """
        digest = hashlib.sha256()
        for name, module in self.model.named_modules():
            kind = type(module)
            plain = {key: value for key, value in vars(module).items() if isinstance(value, _PLAIN)}
            digest.update(f"{name} {kind.__module__}.{kind.__qualname__} {module.extra_repr()}".encode())
            digest.update(repr(sorted(plain.items())).encode())
        for name, value in (*self.model.named_parameters(), *self.model.named_buffers()):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return f"EmpiricalNTK of {', '.join(self.names)}, {digest.hexdigest()}"

    def _present(self) -> _Present:
        """Look at the model as it is now; refuse modes in which there is no kernel."""
        known: dict[str, nn.Parameter] = {}
        modes, held = [], {}  # by identity, as a tensor may have several names
        for prefix, module in self.model.named_modules():
            modes.append(module.training)
            if module.training:
                self._refuse_mode(prefix, module)
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in held:
                    held[id(parameter)] = parameter
                    known[f"{prefix}.{name}".removeprefix(".")] = parameter
            for buffer in module._buffers.values():
                if buffer is not None:
                    held[id(buffer)] = buffer
        trained = tuple([name for name, parameter in known.items() if parameter.requires_grad])
        if self._chosen:
            if frozen := [name for name in self.names if name not in trained]:
                raise ValueError(f"params has {', '.join(frozen)}, which no longer require a gradient")
        elif trained != self.names:
            self.names = _names(self.model, None)
            self._owners = owners(self.model, self.names)
            self._checked.clear()
            self._each.clear()
        versions = tuple([(place, t.data_ptr(), t._version) for place, t in held.items()])
        key = (tuple(modes), versions)
        return _Present({name: known[name] for name in self.names}, key)

    @staticmethod
    def _refuse_mode(name: str, module: nn.Module) -> None:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"model has batch normalization in training mode ({name}): one sample's gradient "
                "depends on the others; call model.eval() for the kernel with fixed statistics"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ValueError(f"model has dropout in training mode ({name}): call model.eval()")

    def _rows(self, x: Tensor, now: _Present) -> int:
        """Choose the rows of a block, by the memory that the samples before took, or a few of these."""
        if x.shape[1:] not in self._each:
            self._block(x[:3], now, set())
        # Two blocks are held at once, and products of them; a third of the memory is for each.
        return max(1, min(int(self.max_memory * _GIB / 3 / self._each[x.shape[1:]]), 1024))

    def _block(self, x: Tensor, now: _Present, by_jacobian: set[str]) -> Capture:
        """Return the terms of all parameters; add to `by_jacobian` those that the layers do not cover."""
        with torch.inference_mode(False), watched(self._owners) as uses, torch.enable_grad():
            outputs = self.model(x.clone())  # a layer may work in place
        if outputs.ndim not in (1, 2) or len(outputs) != len(x):
            raise ValueError(
                f"model must have outputs of shape ({len(x)},) or ({len(x)}, k), got {tuple(outputs.shape)}"
            )
        # The sum is cheaper, but may overflow.
        if not math.isfinite(outputs.detach().sum().item()) and not torch.isfinite(outputs).all():
            raise ValueError("the model's outputs hold NaN or infinity")
        graph = structure(outputs, now.parameters, uses)
        key = (graph.key, now.key)
        known = self._checked.get(key)
        captured = collect(outputs, uses, self.names, retain_graph=known is None)
        if known is None:
            types = {outputs.dtype, *(use.dtype for use in uses), *(p.dtype for p in now.parameters.values())}
            if coarse := types - {torch.float32, torch.float64}:
                raise ValueError(
                    f"the model computes in {coarse.pop()}, which is too coarse for a kernel: use "
                    "model.float(), and no autocast"
                )
            self._refuse_dependence(x, captured.outputs, 1e-4 if torch.float32 in types else 1e-9)
            wrong = uncovered(captured, now.parameters, torch.Generator().manual_seed(0))
            known = frozenset(graph.strays() | set(wrong))
            if graph.by_rows:
                self._remember(key, known)
            self._each.pop(x.shape[1:], None)
        captured.outputs = captured.outputs.detach()
        for name, jacobian in self._jacobians(x, known).items():
            rows = jacobian.reshape(*captured.outputs.shape, -1).to(outputs.dtype)
            captured.terms[name] = [Explicit(rows, now.parameters[name].shape)]
        by_jacobian |= known
        if x.shape[1:] not in self._each:
            size = sum(_size(term) for terms in captured.terms.values() for term in terms)
            self._each[x.shape[1:]] = max(1, size * outputs.element_size() / len(x))
        return captured

    def _refuse_dependence(self, x: Tensor, outputs: Tensor, close: float) -> None:
        few = range(min(len(x), 3))
        with torch.no_grad():
            alone = torch.cat([self.model(x[i : i + 1].clone()).reshape(1, -1) for i in few])
        if not (alone - outputs.detach()[: len(few)]).abs().max() <= close * (1 + alone.abs().max()):
            raise ValueError(
                "an output depends on other samples of the batch, or is random; the kernel is not defined"
            )

    def _remember(self, key: Hashable, found: frozenset[str]) -> None:
        if len(self._checked) >= _GRAPHS:
            self._checked.clear()
        self._checked[key] = found

    def _jacobians(self, x: Tensor, names: frozenset[str]) -> dict[str, Tensor]:
        if not names:
            return {}
        known = (*self.model.named_parameters(), *self.model.named_buffers())
        fixed = {name: value.detach() for name, value in known}
        moving = {name: fixed[name] for name in names}

        def outputs(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
            return functional_call(self.model, {**fixed, **parameters}, (row[None],)).reshape(-1)

        return vmap(jacrev(outputs), in_dims=(None, 0))(moving, x)


def _product(first: Capture, second: Capture) -> Tensor:
    n1, k = first.outputs.shape
    total = first.outputs.new_zeros(n1, k, len(second.outputs), k)
    return inner_products(first.terms, second.terms, total)


def _names(model: nn.Module, params: Iterable[str | nn.Parameter] | None) -> tuple[str, ...]:
    known = dict(model.named_parameters())
    if params is None:
        names = [name for name, parameter in known.items() if parameter.requires_grad]
    else:
        by_id = {id(parameter): name for name, parameter in known.items()}
        names = []
        for wanted in params:
            name = wanted if isinstance(wanted, str) else by_id.get(id(wanted))
            if name not in known:
                raise ValueError(
                    f"params has {wanted if isinstance(wanted, str) else 'a tensor'!r}, which is no "
                    f"parameter of the model; it has {', '.join(known)}"
                )
            if not known[name].requires_grad:
                raise ValueError(f"params has {name}, which does not require a gradient")
            names.append(name)
    if not names:
        raise ValueError("params is empty: the model has no parameter that requires a gradient")
    return tuple(dict.fromkeys(names))


def _size(term: object) -> int:
    return sum(value.numel() for value in vars(term).values() if isinstance(value, Tensor))
